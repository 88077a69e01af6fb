"""Words for numbers."""

from __future__ import annotations


def count(number: int, noun: str, plural: str = "") -> str:
    """1 channel, 3 channels, 2 batches."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
