"""Where a command's time goes, by stage: BNCHECK_TIMING=1 prints it on stderr at the end.

A stage within a stage counts for itself alone, so that the stages add up to the whole.
"""

from __future__ import annotations

import builtins
import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, TypeVar

VARIABLE: Final = "BNCHECK_TIMING"
#: A stage of its own, since importing torch alone takes seconds.
IMPORTING: Final = "importing libraries"
#: Whatever is in no stage.
REST: Final = "the rest"

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Stopwatch:
    """Seconds of wall time by stage, in the order in which they first ended."""

    start: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)
    #: What the stages within each open stage took.
    within: list[float] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        began = time.perf_counter()
        self.within.append(0.0)
        try:
            yield
        finally:
            took = time.perf_counter() - began
            own = took - self.within.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + own
            if self.within:
                self.within[-1] += took

    def lines(self) -> list[str]:
        """A line a stage, and one for the rest; they add up to what has passed so far."""
        rest = time.perf_counter() - self.start - sum(self.seconds.values())
        return [f"{took:8.3f} s  {name}" for name, took in {**self.seconds, REST: rest}.items()]


#: None where nobody asked: a stage then costs a comparison.
_watch: Stopwatch | None = None
_import: Final = builtins.__import__


def begin() -> None:
    """Start anew if the environment asks for it.

    Libraries are imported where they are first needed, which may be anywhere, so every import
    statement becomes a stage.
    """
    global _watch
    _watch = Stopwatch() if os.environ.get(VARIABLE) == "1" else None
    builtins.__import__ = _import if _watch is None else _timed_import


def _timed_import(*given: Any, **named: Any) -> Any:
    assert _watch is not None
    with _watch.stage(IMPORTING):
        return _import(*given, **named)


def lines() -> list[str]:
    """What has been timed since the beginning; nothing where nobody asked."""
    return [] if _watch is None else _watch.lines()


def timed(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make every call of a function a stage."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            if _watch is None:
                return function(*args, **kwargs)
            with _watch.stage(name):
                return function(*args, **kwargs)

        return call

    return decorate
