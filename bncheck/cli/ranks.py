"""Commands that measure, started by torchrun: the option, and what all ranks are given alike."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bncheck.cli import console
from bncheck.cli.options import finite
from bncheck.core.errors import TerminatedError

if TYPE_CHECKING:
    from bncheck.measuring.distributed import Processes

_A_MONTH: Final = 30 * 86_400

TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout",
        min=0.1,
        max=_A_MONTH,
        metavar="SECONDS",
        callback=finite,
        help="How long to wait for another rank (under torchrun).",
    ),
]
DEFAULT_TIMEOUT = 300.0


@contextlib.contextmanager
def launched(timeout: float, command: str, **given: object) -> Iterator[Processes]:
    """The ranks that torchrun started, each given the same; one without torchrun.

    Options that mean no measuring (where reports go) do not belong into `given`.
    """
    from bncheck.measuring.distributed import launched_processes
    from bncheck.measuring.messages import LostRankError, SharedError

    facts = {"the command": command, **dict(_facts(given))}
    try:
        with launched_processes(timeout, facts) as processes:
            yield processes
    except (SharedError, LostRankError, TerminatedError) as error:
        # torchrun ends all when one has failed, which may not keep this one from saying what did,
        # wherever on the way out the signal comes.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        told = next((e for e in _chain(error) if isinstance(e, (SharedError, LostRankError))), None)
        if told is None or told is error:
            raise
        raise told from error
    if processes.rank == 0:
        for note in processes.notes:
            console.note(note)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that were being handled when it came."""
    while error is not None:
        yield error
        error = error.__context__


def _facts(given: dict[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in given.items():
        if is_dataclass(value) and not isinstance(value, type):
            yield from _facts({field.name: getattr(value, field.name) for field in fields(value)})
        elif name == "device":  # each may have a GPU of its own
            yield "the kind of --device", str(value).partition(":")[0]
        elif value is not None:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            yield f"--{name.replace('_', '-')}", text
