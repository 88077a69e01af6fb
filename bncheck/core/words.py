"""Words for numbers and files."""

from __future__ import annotations


def count(number: int, noun: str, plural: str = "") -> str:
    """1 channel, 3 channels, 2 batches."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def as_argument(path: object) -> str:
    """A path as a word of a command line, which no command takes for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)
