"""Runs a command line again and again, and changes a file that it reads at every read.

Usage: python -m tests.faults.changing FILE ARGUMENT...; prints a line of JSON for each run: what
was done to the file, before which read, the exit code and what was printed. It is a process of its
own: a run that touched a mapped file which became shorter would end it by a signal.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from bncheck.cli import run
from bncheck.reading.source import SourceFile

_MOST_READS = 16


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _overwrite(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _exchange(path: Path) -> None:
    path.with_suffix(".new").write_bytes(b"another file")
    os.replace(path.with_suffix(".new"), path)


CHANGES: tuple[Callable[[Path], None], ...] = (_truncate, _empty, _overwrite, _exchange)


def _changed(change: Callable[[Path], None], path: Path, place: int, words: list[str]) -> int:
    """The exit code of one run; 98 where it made fewer reads."""
    reads, read_at = 0, SourceFile.read_at

    def counted(self: SourceFile, offset: int, length: int) -> bytes:
        nonlocal reads
        reads += self.path.name == path.name
        if reads == place and self.path.name == path.name:
            change(path)
        return read_at(self, offset, length)

    SourceFile.read_at = counted  # type: ignore[method-assign]
    try:
        code = run(words)
    finally:
        SourceFile.read_at = read_at  # type: ignore[method-assign]
    return 98 if reads < place else code


def main(path: Path, words: list[str]) -> None:
    """Change it before read 1, 2... until a run has fewer reads."""
    backup = shutil.copy(path, f"{path}.backup")
    results = []
    for change in CHANGES:
        for place in range(1, _MOST_READS):
            shutil.copy(backup, path)
            with tempfile.TemporaryFile("w+") as log, redirect_stdout(log), redirect_stderr(log):
                code = _changed(change, path, place, words)
                log.seek(0)
                said = log.read()
            results.append(
                {"change": change.__name__, "read": place, "code": code, "said": said[-2000:]}
            )
            if code == 98:
                break
    sys.stdout.write("".join(f"{json.dumps(result)}\n" for result in results))


main(Path(sys.argv[1]), sys.argv[2:])
