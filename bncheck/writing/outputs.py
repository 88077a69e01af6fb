"""What a command writes is nothing that it reads, and every file of it is another."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from bncheck.core.errors import BncheckError
from bncheck.reading.parts import files_of


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse an output that is one of the inputs or another output. Raises BncheckError.

    Two names are one file where links, hard links or folders lead them to one. An input is all of
    its files: a folder's but for earlier reports, an index's shards, an ONNX model's data. Called
    before anything is written; the inputs are looked at only where there is something to lose.
    """
    taken: set[object] = set()
    existing: dict[object, Path] = {}
    for output in outputs:
        marks = _marks(output)
        if not taken.isdisjoint(marks):
            raise BncheckError("would be written twice", "name another file", str(output))
        taken |= marks
        if os.path.lexists(output):
            existing |= dict.fromkeys(marks, output)
    for path in inputs if existing else ():
        for file in files_of(path):
            for mark in _marks(file) & existing.keys():
                if os.path.isdir(path) and _is_report(file):
                    continue
                raise BncheckError(
                    f"is also an input ({path})", "name another file to write", str(existing[mark])
                )


def refuse_inside(output: Path, folder: Path) -> None:
    """Refuse a copy of a folder within the folder. Raises BncheckError."""
    home, place = os.path.realpath(folder), os.path.realpath(output)
    if os.path.isdir(folder) and os.path.commonpath([home, place]) == home:
        raise BncheckError(
            f"lies in the folder of which it is a copy ({folder})", "name another", str(output)
        )


def _is_report(path: Path) -> bool:
    """Whether an earlier run may have put it beside what is read from the folder."""
    if path.suffix in (".html", ".svg", ".sarif"):
        return True
    if path.suffix not in (".json", ".md", ".xml", ".txt"):
        return False
    with open(path, "rb") as file:
        return b"bncheck" in file.read(4096)


def _marks(path: Path) -> set[object]:
    """What tells a file from others: where its name leads, and its inode."""
    marks: set[object] = set()
    with contextlib.suppress(OSError, ValueError):
        marks.add(os.path.realpath(path))
        status = os.stat(path)
        marks.add((status.st_dev, status.st_ino))
    return marks
