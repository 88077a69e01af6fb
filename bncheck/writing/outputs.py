"""What a command writes is nothing that it reads, and every file of it is another."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from bncheck.core.errors import BncheckError
from bncheck.reading.parts import files_of

Inode: TypeAlias = "tuple[int, int]"


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse an output that is one of the inputs or another output. Raises BncheckError.

    Two names are one file where links, hard links or folders lead them to one. An input is all of
    its files: a folder's but for earlier reports, an index's shards, an ONNX model's data. Called
    before anything is written; the inputs are looked at only where there is something to lose.
    """
    taken: set[object] = set()
    existing: dict[Inode, Path] = {}
    for output in outputs:
        if "\0" in str(output):  # said when it is to be written
            continue
        inode, place = _inode(output), os.path.realpath(output)
        if place in taken or inode in taken:
            raise BncheckError("would be written twice", "name another file", str(output))
        taken.add(place)
        if inode is not None:
            taken.add(inode)
            existing[inode] = output
    for path in inputs if existing else ():
        for file in files_of(path):
            lost = existing.get(_inode(file) or (0, 0))
            if lost is not None and not (os.path.isdir(path) and _is_report(file)):
                hint = "name another file to write"
                raise BncheckError(f"is also an input ({path})", hint, str(lost))


def refuse_inside(output: Path, folder: Path) -> None:
    """Refuse a copy of a folder within the folder. Raises BncheckError."""
    home, place = os.path.realpath(folder), os.path.realpath(output)
    if os.path.isdir(folder) and os.path.commonpath([home, place]) == home:
        raise BncheckError(
            f"is inside the folder that it is a copy of ({folder})", "name another", str(output)
        )


def _is_report(path: Path) -> bool:
    """Whether an earlier run may have put it beside what is read from the folder."""
    if path.suffix in (".html", ".svg", ".sarif"):
        return True
    if path.suffix not in (".json", ".md", ".xml", ".txt"):
        return False
    with open(path, "rb") as file:
        return b"bncheck" in file.read(4096)


def _inode(path: Path) -> Inode | None:
    """What tells an existing file from others, whatever names it has; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
