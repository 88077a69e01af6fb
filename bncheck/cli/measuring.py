"""The options of commands that run a model on data, and what they make together."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from bncheck.cli import console
from bncheck.cli.help import Heading
from bncheck.core.errors import BncheckError
from bncheck.core.words import unsaid

if TYPE_CHECKING:
    from bncheck.data import DataOptions
    from bncheck.measuring.distributed import Processes
    from bncheck.subject.setup import Measuring


_about_model = partial(typer.Option, rich_help_panel=Heading.MODEL)
N = TypeVar("N", int, float)
_DEVICE: Final = "cpu"
_about_data = partial(typer.Option, rich_help_panel=Heading.DATA)


@dataclass(frozen=True)
class ModelOptions:
    """A model, and what to run it on."""

    model: Annotated[
        str | None,
        _about_model(
            "--model",
            metavar="TARGET:CALLABLE",
            help=("The model: my.nets:ResNet or nets.py:build."),
        ),
    ] = None
    model_arg: Annotated[
        list[str] | None,
        _about_model(
            "--model-arg",
            metavar="KEY=VALUE",
            help="Arguments of --model: Python literals, or @FILE.yaml|json|toml.",
        ),
    ] = None
    data: Annotated[
        str | None,
        _about_data(
            "--data",
            metavar="SPEC",
            help="A .npz, .npy, .pt or .safetensors file, a folder of images, or TARGET:CALLABLE.",
        ),
    ] = None
    trust: Annotated[
        bool,
        _about_model(
            "--trust", help="Unpickle the checkpoint as the model; this runs code from the file."
        ),
    ] = False
    device: Annotated[
        str,
        _about_model("--device", metavar="NAME", help="cpu, cuda, cuda:1."),
    ] = _DEVICE
    batch_size: Annotated[
        int | None,
        _about_data(
            "--batch-size", min=1, metavar="N", help="For files and folders (default: 64)."
        ),
    ] = None
    scale: Annotated[
        float | None,
        _about_data("--scale", metavar="S", help="Divide raw values by this, e.g. 255."),
    ] = None
    mean: Annotated[
        str | None,
        _about_data("--mean", metavar="M[,M,M]", help="Then subtract this, per channel."),
    ] = None
    std: Annotated[
        str | None,
        _about_data("--std", metavar="S[,S,S]", help="Then divide by this, per channel."),
    ] = None
    size: Annotated[
        str | None,
        _about_data("--size", metavar="H[,W]", help="Resize the images of a folder to this size."),
    ] = None
    grey: Annotated[
        bool, _about_data("--grey", help="Read the images of a folder in grey: one channel.")
    ] = False
    max_samples: Annotated[
        int | None,
        _about_data(
            "--max-samples", min=1, metavar="N", help="Use at most this many (default: 4096)."
        ),
    ] = None

    @property
    def specs(self) -> tuple[str, ...]:
        """What names files or code."""
        return tuple(spec for spec in (self.model, self.data) if spec)

    def _data_words(self) -> list[tuple[str, object]]:
        return [
            ("--scale", self.scale),
            ("--mean", self.mean),
            ("--std", self.std),
            ("--size", self.size),
            ("--grey", self.grey or None),
            ("--batch-size", self.batch_size),
            ("--max-samples", self.max_samples),
        ]

    def check_idle(self) -> None:
        """Without data or a model these options would silently do nothing."""
        for option, value in self._data_words() if self.data is None else ():
            if value is not None:
                raise BncheckError(f"{option} needs data", "add --data, or leave it out")
        if self.model is None and self.model_arg:
            raise BncheckError("--model-arg needs a model", "add --model, or leave it out")
        if self.model is None and not self.trust and self.device != _DEVICE:
            raise BncheckError("--device needs a model", "add --model, or leave it out")

    def parts(self) -> Measuring:
        """Model and data as they were given, for a command that can do with one of them."""
        self.check_idle()
        from bncheck.subject.setup import Measuring

        return Measuring(
            self.model,
            self.data,
            tuple(self.model_arg or ()),
            self._data_options(),
            self.trust,
            self.device,
            note=cache(console.note),  # said once, however often the data are opened
        )

    def _data_options(self) -> DataOptions:
        from bncheck.data import DEFAULT_BATCH_SIZE, DEFAULT_MAX_SAMPLES, DataOptions

        size = _numbers(int, self.size, "--size")
        mean, std = _numbers(float, self.mean, "--mean"), _numbers(float, self.std, "--std")
        return DataOptions(
            self.batch_size or DEFAULT_BATCH_SIZE,
            self.max_samples or DEFAULT_MAX_SAMPLES,
            scale=self.scale,
            mean=mean,
            std=std,
            size=size,
            grey=self.grey,
        )


@dataclass(frozen=True)
class MeasuringOptions(ModelOptions):
    """A model and data to measure it with."""

    metric: Annotated[
        str | None,
        _about_data(
            "--metric",
            metavar="TARGET:CALLABLE",
            help="metric(output, labels) of a batch; higher is better.",
        ),
    ] = None

    @property
    def specs(self) -> tuple[str, ...]:
        """The metric's, too."""
        return (*super().specs, *([self.metric] if self.metric else []))

    def _data_words(self) -> list[tuple[str, object]]:
        return [*super()._data_words(), ("--metric", self.metric)]

    def measuring(
        self, processes: Processes, progress: Callable[[int, int | None], None]
    ) -> Measuring | None:
        """What to measure, data None for the model alone; None where the user wants neither."""
        if self.data is not None and self.model is None and not self.trust:
            raise BncheckError(
                "--data needs a model",
                "add --model TARGET:CALLABLE, or --trust for a pickled module",
            )
        self.check_idle()
        if self.model is None and not self.trust:
            return None
        given = self.parts()
        return replace(
            given,
            metric=self.metric,
            processes=processes,
            progress=progress,
            note=unsaid if processes.rank else given.note,
        )


def _numbers(kind: Callable[[str], N], text: str | None, option: str) -> tuple[N, ...]:
    from bncheck.data.batches import EXAMPLES

    try:
        return () if text is None else tuple(kind(part) for part in text.split(","))
    except ValueError:
        what = "numbers" if kind is float else "whole numbers"
        hint = f"write e.g. {option} {EXAMPLES[option][1]}"
        raise BncheckError(f"{option} {text!r} is not a list of {what}", hint) from None


@contextlib.contextmanager
def progress_bar(wanted: bool, unit: str = "samples") -> Iterator[Callable[..., None]]:
    """A bar on a terminal's stderr, which disappears when the work is done.

    It is told how much is done, of how much (None: unknown), and `what` is being done.
    """
    if not wanted or sys.stderr is None or not sys.stderr.isatty():
        yield lambda done, total, what="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("measuring", total=None)
        yield lambda done, total, what="measuring": bar.update(
            task, completed=done, total=total, description=what
        )
