"""Several files, one after the other or in several processes, in the order in which they came."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, NoReturn

from bncheck.core.errors import BncheckError
from bncheck.inspecting.choices import choice_notes, ignored_notes
from bncheck.inspecting.command import inspect
from bncheck.inspecting.from_file import InspectOptions
from bncheck.inspecting.report import InspectReport
from bncheck.reading.checkpoint import Checkpoint
from bncheck.reading.listing import CONSTANTS
from bncheck.reading.tensors import LoadedTensor, TensorMap

#: Files that a process is given at a time: a small one takes a few milliseconds.
_AT_ONCE = 8


class Inspected(NamedTuple):
    """A report, and what is worth knowing beside it."""

    report: InspectReport
    notes: tuple[str, ...]


def notes_on(report: InspectReport, options: InspectOptions) -> Iterator[str]:
    """What the reader chose on the user's behalf, and what it did not find."""
    assert report.checkpoint is not None
    yield from choice_notes(report.checkpoint, options, report.others)
    yield from ignored_notes(report, options)
    if not report.certain_layers:
        frozen = all(name.startswith(CONSTANTS) for name in report.checkpoint.tensors)
        why = "; its weights are constants of frozen code, into which norms may have been computed"
        yield (
            f"{report.checkpoint.path}: holds no normalisation layer with running statistics"
            f"{why if frozen and report.checkpoint.tensors else ''}"
        )


def inspect_in_processes(
    paths: Sequence[Path], options: InspectOptions, jobs: int
) -> Iterator[Inspected | BncheckError]:
    """Each file's report without its tensors, or what is wrong with it, in the order of the paths.

    Started by fork where that is safe, so that what is imported need not be imported again.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    start = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(min(jobs, len(paths)), start, initializer=_leave_signals_alone)
    try:
        work = [(path, options) for path in paths]
        yield from pool.map(_one, work, chunksize=max(1, min(_AT_ONCE, len(paths) // jobs)))
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_signals_alone() -> None:
    """Ctrl-C reaches all processes, and the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _one(work: tuple[Path, InspectOptions]) -> Inspected | BncheckError:
    path, options = work
    try:
        report = inspect(path, options)
        notes = tuple(notes_on(report, options))
    except BncheckError as error:
        return error
    return Inspected(replace(report, checkpoint=_detached(report.checkpoint)), notes)


def _detached(checkpoint: Checkpoint | None) -> Checkpoint | None:
    """What a report needs of a checkpoint, without its open files."""
    if checkpoint is None:
        return None
    names = dict.fromkeys(checkpoint.tensors, LoadedTensor(_gone))
    return Checkpoint(
        checkpoint.path,
        checkpoint.container,
        checkpoint.key,
        checkpoint.prefix,
        TensorMap(names),
        {},
    )


def _gone() -> NoReturn:
    raise BncheckError("was read in another process", "open it again")
