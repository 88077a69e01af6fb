"""Names of files that are being written, and the end of those whose writer was killed.

`.NAME.bncheck-HOST-PID-START.xxxxxxxx` is written by that process of that host. A process that has
gone cannot finish it, so the next one that writes into the folder removes it. HOST covers the
namespace of process numbers, too: it is unknown whether a process of another container lives.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Final

_OURS: Final = re.compile(
    r"\..*\.bncheck-(?P<host>[0-9a-f]{8})-(?P<pid>\d{1,10})-(?P<start>\d+)\.\w{8}(\..*)?", re.DOTALL
)
#: Fields of /proc/PID/stat behind the name in brackets: man 5 proc.
_STATE: Final = 0
_START: Final = 19
_DEAD: Final = ("Z", "X")


def prefix(stem: str) -> str:
    """What the name of a temporary file of this process begins with."""
    pid = os.getpid()
    return f".{stem[:40]}.bncheck-{_host()}-{pid}-{_own_start(pid)}."


def sweep(folder: Path) -> None:
    """Remove what killed runs of this user on this host have left in the folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _is_left(entry):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)


def _is_left(entry: os.DirEntry[str]) -> bool:
    found = _OURS.fullmatch(entry.name)
    if found is None or found["host"] != _host():
        return False
    status = entry.stat(follow_symlinks=False)
    if entry.is_symlink() or status.st_uid != os.geteuid():
        return False
    if entry.is_dir() and status.st_mode & 0o077:  # as mkdtemp makes none, but as people do
        return False
    return _has_gone(int(found["pid"]), found["start"])


def _has_gone(pid: int, start: str) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # another user's: this one has the number now, or cannot be looked at
        pass
    now = _started(pid)
    return now is not None and now != start


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the machine did; "" for a dead one, None if unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if fields[_STATE] in _DEAD else fields[_START]
    except (OSError, IndexError):
        return None


@functools.cache
def _own_start(pid: int) -> str:
    """Of this process, which a fork changes: hence its number."""
    return _started(pid) or "0"


@functools.cache
def _host() -> str:
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()}\0{namespace}".encode()).hexdigest()[:8]
