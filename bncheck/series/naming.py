"""What file names say: a natural order, short labels, and which process wrote a file."""

from __future__ import annotations

import itertools
import re
import string
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
        return [str(path.with_suffix("")) for path in paths]
    if len(names) < 2:
        return names
    head = _alike(names)
    tail = _alike([name[head:][::-1] for name in names])
    cut = [name[head : len(name) - tail].strip(_EDGES) for name in names]
    return cut if all(cut) else names


def _alike(names: Sequence[str]) -> int:
    """How much all of them begin with, whole words only: epoch020, not 20 and not 0."""
    letters = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*names, strict=False))
    head = "".join(column[0] for column in letters)
    return len(head.rstrip(string.ascii_letters + string.digits))
