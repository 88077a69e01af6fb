"""The command that measures a checkpoint's statistics anew, as a user would type it.

Everything that was said about the model, the data and the file is in it: typed as it is printed,
it repairs the part that was inspected, with the data that it was inspected with.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from bncheck.core.words import as_argument
from bncheck.data import DataOptions
from bncheck.inspecting.from_file import InspectOptions
from bncheck.reading.remote import StandardInput, is_local
from bncheck.subject.setup import Measuring

#: What to call where there is no command to type: a module or data in memory.
IN_PYTHON = "bncheck.recalibrate(model, data)"

Pair = tuple[str, object]


def recalibrate_command(path: Path | None, options: InspectOptions, measuring: Measuring) -> str:
    """`bncheck recalibrate` for the checkpoint at `path`; the call where model or data are objects.

    Modules of `measuring.import_root` are found from any working directory.
    """
    given = (measuring.model, measuring.data, measuring.metric)
    if path is None or not all(value is None or isinstance(value, str) for value in given):
        return IN_PYTHON
    piped = isinstance(path, StandardInput)
    words = ["bncheck", "recalibrate", "-" if piped else as_argument(path)]
    for option, value in _pairs(options, measuring):
        if value is not None:
            words += [option, _text(value)] if value != "" else [option]
    line = shlex.join([*words, "-o", as_argument(repaired_path(path))])
    return f"{_python_path(measuring)}{line}"


def repaired_path(path: Path) -> Path:
    """Where the repaired copy of a checkpoint is proposed to go."""
    if isinstance(path, StandardInput):
        return Path("recalibrated.pt")
    if not is_local(path):
        return Path(f"{path.stem}-recalibrated{path.suffix}")
    return path.with_name(f"{path.stem}-recalibrated{path.suffix}")


def _pairs(options: InspectOptions, measuring: Measuring) -> Iterator[Pair]:
    """Options and values, None where nothing is to be said, "" for a flag."""
    yield "--model", measuring.model
    yield "--device", measuring.device if measuring.device != "cpu" else None
    yield from (("--model-arg", argument) for argument in measuring.model_args)
    yield "--trust", "" if measuring.trust else None
    yield "--data", measuring.data
    yield from _about_data(measuring.data_options or DataOptions())
    yield "--metric", measuring.metric
    yield "--key", options.key
    yield "--eps", options.eps
    yield "--momentum", options.momentum
    yield "--train-batch-size", options.train_batch_size


def _about_data(given: DataOptions) -> Iterator[Pair]:
    usual = DataOptions()
    yield "--scale", given.scale
    yield "--mean", given.mean or None
    yield "--std", given.std or None
    yield "--size", given.size or None
    yield "--grey", "" if given.grey else None
    yield "--batch-size", given.batch_size if given.batch_size != usual.batch_size else None
    yield "--max-samples", given.max_samples if given.max_samples != usual.max_samples else None


def _text(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(_text, value))
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _python_path(measuring: Measuring) -> str:
    """What makes dotted modules importable, where the working directory does not."""
    root = measuring.import_root
    if root is None or os.path.realpath(root) == os.path.realpath(os.curdir):
        return ""
    specs = (measuring.model, measuring.data, measuring.metric)
    if not any(isinstance(spec, str) and _is_dotted(spec) for spec in specs):
        return ""
    return f"PYTHONPATH={shlex.quote(str(root))} "


def _is_dotted(spec: str) -> bool:
    target, colon, _ = spec.rpartition(":")
    return bool(colon) and not target.endswith(".py") and os.sep not in target
