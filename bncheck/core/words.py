"""Words for numbers and names, and who is told them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

#: Is told a line that is worth knowing beside the result.
Note: TypeAlias = Callable[[str], None]


def unsaid(_line: str) -> None:
    """A Note that discards what it is told."""


def tell_all(lines: Iterable[str], note: Note) -> None:
    """Tell the lines one by one."""
    for line in lines:
        note(line)


def count(number: int, noun: str, plural: str = "") -> str:
    """1 channel, 3 channels, 2 batches."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def as_argument(path: object) -> str:
    """A path as a word of a command line, which no command takes for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def shortened(name: str, longest: int = 200) -> str:
    """A name of a file; the beginning of one that is longer than names are."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
