"""What file names say: a natural order, short labels, and which process wrote a file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_NUMBER: Final = re.compile(r"(\d+)")
_RANK: Final = re.compile(r"(?i)(?:^|(?<=[^a-z]))(?:mp[-_.]?)?rank[-_.]?(\d+)")
_EDGES: Final = "-_. "


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """epoch-2 before epoch-10: runs of digits compare as numbers."""
    parts = [part for part in _NUMBER.split(name) if part]
    return tuple((0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts)


def numbers_in(name: str) -> tuple[int, ...]:
    """The numbers in a name, in their order."""
    return tuple(int(number) for number in _NUMBER.findall(name))


def rank_of(path: Path) -> tuple[str, int] | None:
    """The path without its rank, and the rank; None where a name has none."""
    match = _RANK.search(path.name)
    if match is None:
        return None
    rest = path.name[: match.start()] + path.name[match.end() :]
    return str(path.with_name(rest or "rank")), int(match[1])


def short_labels(paths: Sequence[Path]) -> list[str]:
    """What the paths differ in: the stems without what all of them begin and end with."""
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(names) < 2:
        return names
    head = len(os.path.commonprefix(names))
    while head and names[0][head - 1].isalnum():  # epoch020, not 20 and not 0
        head -= 1
    tail = len(os.path.commonprefix([name[head:][::-1] for name in names]))
    while tail and names[0][len(names[0]) - tail].isalnum():
        tail -= 1
    cut = [name[head : len(name) - tail].strip(_EDGES) for name in names]
    return cut if all(cut) else names
