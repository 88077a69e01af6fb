"""One recorder writes into a folder: a lock between processes, and the newest within one.

In a notebook a cell that is run again makes another recorder before the first one is gone.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from bncheck.core.errors import BncheckError

if TYPE_CHECKING:
    from filelock import FileLock

LOCK: Final = "index.lock"
#: How long a process that was killed may leave its workers behind: torch's notice in 5 seconds.
_PATIENCE: Final = 6.0
_HELD: Final[WeakValueDictionary[str, Hold]] = WeakValueDictionary()


class HeldError(BncheckError):
    """Another process writes into the folder."""


@dataclass(eq=False)
class Hold:
    """A folder that is written into, until it is let go or another recorder takes it over."""

    path: Path
    taken: bool = False
    _lock: FileLock | None = field(default=None, repr=False)

    @classmethod
    def of(cls, path: Path) -> Hold:
        """Take it. Raises HeldError where another process has it."""
        from filelock import FileLock, Timeout

        place = os.path.realpath(path)
        before = _HELD.get(place)
        if before is not None:
            before.taken = True
            before.let_go()
        lock = FileLock(path / LOCK, timeout=_PATIENCE, thread_local=False)
        hold = cls(path, False, lock)
        try:
            lock.acquire()
        except Timeout:
            raise HeldError(
                "is the record of another process that still runs",
                "record each training in a folder of its own",
                str(path),
            ) from None
        except (OSError, NotImplementedError):  # a file system that knows no locks
            hold._lock = None
        _HELD[place] = hold
        return hold

    def check(self) -> None:
        """Raise BncheckError if another recorder has taken it over."""
        if self.taken:
            raise BncheckError(
                "is written by a newer Recorder of this process",
                "record each training in a folder of its own, or both models by also=",
                str(self.path),
            )

    def let_go(self) -> None:
        """Let others write."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.release()
        self._lock = None
