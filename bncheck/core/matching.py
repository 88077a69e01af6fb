"""Patterns of names, as shells have them: `*`, `?` and `[...]`, in letters of the same case."""

from __future__ import annotations

from fnmatch import fnmatchcase

from bncheck.core.errors import BncheckError, quoted
from bncheck.core.limits import MAX_PATTERN_LETTERS


def is_pattern(word: str) -> bool:
    """Whether a word means more than itself."""
    return not {"*", "?", "["}.isdisjoint(word)


def matches(name: str, pattern: str) -> bool:
    """Whether a name fits a pattern; one that means only itself may have any length.

    Raises BncheckError for a longer pattern than any name needs, whose translation takes minutes.
    """
    if not is_pattern(pattern):
        return name == pattern
    if len(pattern) > MAX_PATTERN_LETTERS:
        raise BncheckError(
            f"the pattern {quoted(pattern)} has {len(pattern):,} letters (limit "
            "MAX_PATTERN_LETTERS)",
            "write it with fewer, or give several",
        )
    return fnmatchcase(name, pattern)
