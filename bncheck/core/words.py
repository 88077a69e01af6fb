"""Words for numbers and files."""

from __future__ import annotations

import shlex


def count(number: int, noun: str, plural: str = "") -> str:
    """1 channel, 3 channels, 2 batches."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def shell_name(path: object) -> str:
    """A file's name as a word of a shell command, which no command takes for an option."""
    name = str(path)
    return shlex.quote(f"./{name}" if name.startswith("-") else name)
