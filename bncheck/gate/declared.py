"""One declared model with one of its checkpoints, as the checks need it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bncheck.core.errors import BncheckError, quoted
from bncheck.core.matching import is_pattern
from bncheck.core.words import Note, unsaid
from bncheck.inspecting.from_file import InspectOptions
from bncheck.policy.config.load import Configuration
from bncheck.policy.config.settings import Model, words
from bncheck.policy.policy import Policy
from bncheck.reading.patterns import meant
from bncheck.reading.remote import Remote, place_of

if TYPE_CHECKING:
    from bncheck.subject.setup import Measuring


@dataclass(frozen=True)
class Declared:
    """What one check of one checkpoint is given. Paths are relative to the working directory."""

    name: str
    model: Model
    path: Path
    configuration: Configuration
    policy: Policy
    note: Note = unsaid

    @property
    def options(self) -> InspectOptions:
        """What the model's settings say about inspections."""
        model, policy = self.model, self.policy
        return InspectOptions(
            model.key,
            model.eps,
            model.momentum,
            model.train_batch_size,
            policy.select,
            policy.ignore,
            model.inspect.over(policy.thresholds),
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The shapes of a sample's inputs."""
        return words(self.model.input)

    def measuring(self, *, data: bool = True) -> Measuring:
        """Model and data; without the data where a check has no use for them."""
        from bncheck.data import DEFAULT_BATCH_SIZE, DataOptions
        from bncheck.subject.setup import Measuring

        model = self.model
        options = DataOptions(
            model.batch_size or DEFAULT_BATCH_SIZE,
            scale=model.scale,
            mean=model.mean,
            std=model.std,
            size=model.size,
            grey=model.grey,
        )
        if model.samples is not None:
            options = replace(options, max_samples=model.samples)
        given = located_spec(self.configuration, model.data) if data and model.data else None
        return Measuring(
            located_spec(self.configuration, model.model) if model.model else None,
            given,
            tuple(self._argument(key, value) for key, value in model.model_args.items()),
            options,
            import_root=located(self.configuration, "."),
        )

    def _argument(self, key: str, value: object) -> str:
        """As --model-arg has it; @FILE is relative to the configuration."""
        if isinstance(value, str) and value.startswith("@"):
            return f"{key}=@{located(self.configuration, value[1:])}"
        return f"{key}={value!r}"

    def files(self, patterns: str | tuple[str, ...], key: str) -> list[Path]:
        """The files that patterns of the configuration name. Raises BncheckError for none."""
        return list(files_of(self.configuration, self.name, patterns, key))


def files_of(
    configuration: Configuration, name: str, patterns: str | tuple[str, ...], key: str
) -> Iterator[Path]:
    """Files as the configuration names them: paths and patterns, relative to its folder."""
    for pattern in words(patterns):
        path = located(configuration, pattern)
        if isinstance(path, Remote):
            yield from path.matching()
            continue
        if not is_pattern(pattern):
            yield path
            continue
        where = ("models", name, key)
        try:
            found = meant(str(path))
        except BncheckError as error:
            sentence = f"{key} {quoted(pattern)} {error.sentence}"
            raise configuration.error(where, sentence, error.hint) from None
        if not found:
            raise configuration.error(
                where, f"{key} {quoted(pattern)} matches no file", "check the pattern"
            )
        yield from map(Path, found)


def refuse_several(configuration: Configuration, name: str, paths: Sequence[Path]) -> None:
    """One ONNX file belongs to one checkpoint."""
    model = configuration.settings.models[name]
    for key, value in (("export", model.export), ("compare", model.compare)):
        if value is not None and len(paths) > 1:
            raise configuration.error(
                ("models", name, key),
                f"{key} is one file, and {len(paths)} checkpoints would share it",
                "declare a model for each",
            )


def located(configuration: Configuration, path: str) -> Path:
    """A path of the configuration, from here."""
    named = place_of(path)
    if os.path.isabs(path) or isinstance(named, Remote):
        return named
    return Path(os.path.relpath(configuration.resolve(path)))


def located_spec(configuration: Configuration, spec: str) -> str:
    """A path, or the .py file before the colon of TARGET:CALLABLE, from here."""
    target, colon, name = spec.rpartition(":")
    if not colon:
        return str(located(configuration, spec))
    is_file = target.endswith(".py") or os.sep in target
    return f"{located(configuration, target)}:{name}" if is_file else spec


def code_of(model: Model) -> list[str]:
    """What checking the model imports and runs."""
    return [spec for spec in (model.model, model.data) if spec is not None and ":" in spec]


def refuse_without_layers(declared: Declared, layers: int) -> None:
    """A gate that checks nothing must not pass."""
    if not layers:
        raise BncheckError(
            "holds no normalisation layer with running statistics",
            f"check the key, or take {declared.name} out of [tool.bncheck.models]",
            str(declared.path),
        )
