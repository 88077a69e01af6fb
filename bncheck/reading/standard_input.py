"""`-`: what is piped into the command, kept in a file as long as it runs."""

from __future__ import annotations

import shutil
import sys
from functools import cache
from pathlib import Path

from bncheck.core.errors import BncheckError
from bncheck.reading.temporary import temporary_folder


@cache
def piped() -> Path:
    """A file with all of standard input. Raises BncheckError where nothing is piped in."""
    if sys.stdin is None or sys.stdin.isatty():
        raise BncheckError("nothing is piped in", "write `... | bncheck inspect -`", "-")
    path = temporary_folder() / "stdin"
    with open(path, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    if not path.stat().st_size:
        raise BncheckError(
            "is empty: nothing came through the pipe", "check the command before it", "-"
        )
    return path
