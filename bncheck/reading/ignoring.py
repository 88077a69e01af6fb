"""What a .gitignore leaves out, as gitignore(5) has it, in time that a stranger does not choose.

Libraries for this make one regular expression of a pattern: `*a*a*a*b` then takes hours with a name
of many a. Here each part of a path is matched alone, by expressions of fnmatch that never go back,
and `**` as a star among the parts.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_IGNORE_WORK

RULES: Final = ".gitignore"
_MOST_LETTERS: Final = 1 << 20
#: A pattern costs as much as so many comparisons until it can be compared.
_COMPILED: Final = 100
_MAGIC: Final = re.compile(r"[*?\[\\]")
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)

_Part = Callable[[str], object]


def _any(_: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class _Pattern:
    """One line. A part that is None is `**`, any number of folders."""

    parts: tuple[_Part | None, ...]
    includes: bool
    folders_only: bool

    def fits(self, parts: Sequence[str], is_folder: bool) -> bool:
        """Whether it names this path, not what is above it: the walk has asked about that."""
        return (is_folder or not self.folders_only) and _fits(self.parts, parts)


def _fits(pattern: Sequence[_Part | None], parts: Sequence[str]) -> bool:
    """Where nothing fits any more, the last `**` takes one part more: earlier ones need not."""
    place = at = 0
    last: tuple[int, int] | None = None
    while at < len(parts):
        wanted = pattern[place] if place < len(pattern) else _nothing
        if wanted is None:
            place, last = place + 1, (place + 1, at)
        elif wanted(parts[at]):
            place, at = place + 1, at + 1
        elif last is None:
            return False
        else:
            place, at = last[0], last[1] + 1
            last = place, at
    return all(part is None for part in pattern[place:])


def _nothing(_: str) -> bool:
    return False


class Ignoring:
    """Reads files of rules; counts what they cost in all."""

    def __init__(self) -> None:
        self._left = MAX_IGNORE_WORK

    def rules_in(self, folder: Path) -> Rules | None:
        """Those of a folder, None where it has none. Raises BncheckError beyond limits."""
        lines = _lines(folder / RULES)
        self.take(_COMPILED * len(lines), folder)
        patterns = [pattern for pattern in map(_pattern, lines) if pattern is not None]
        return Rules(Path(os.path.abspath(folder)), tuple(patterns)) if patterns else None

    def take(self, work: int, folder: Path) -> None:
        """Count so many comparisons, or raise BncheckError."""
        self._left -= work
        if self._left < 0:
            raise BncheckError(
                f"has too many rules in {RULES} for its files (limit MAX_IGNORE_WORK)",
                "name the checkpoints, or a pattern in quotes",
                str(folder),
            )

    def leaves_out(self, rules: Sequence[Rules], path: Path, is_folder: bool) -> bool:
        """The file nearest to the path that says anything decides."""
        for rule in reversed(rules):
            self.take(len(rule.patterns), path.parent)
            answer = rule.leaves_out(path, is_folder)
            if answer is not None:
                return answer
        return False


@dataclass(frozen=True)
class Rules:
    """A .gitignore and the folder that it is in."""

    home: Path
    patterns: tuple[_Pattern, ...]

    def leaves_out(self, path: Path, is_folder: bool) -> bool | None:
        """Whether it is ignored by the last line that says so; None where nothing is said."""
        parts = os.path.relpath(path, self.home).split(os.sep)
        for pattern in reversed(self.patterns):
            if pattern.fits(parts, is_folder):
                return pattern.includes
        return None

    def leaves_out_below(self, path: Path) -> bool:
        """Whether a folder is ignored, or one above it."""
        above = [p for p in (path, *path.parents) if self.home in p.parents]
        return any(self.leaves_out(place, is_folder=True) for place in above)


def _lines(path: Path) -> list[str]:
    """Of a regular file, at most a megabyte: a pipe or a device would have no end."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return []
    with os.fdopen(handle, encoding="utf-8", errors="replace") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return []
        return file.read(_MOST_LETTERS).split("\n")


def _pattern(line: str) -> _Pattern | None:
    line = line.removesuffix("\r")
    while line.endswith(" ") and not line.endswith("\\ "):
        line = line[:-1]
    if not line or line.startswith("#"):
        return None
    includes = not line.startswith("!")
    line = line if includes else line[1:]
    folders_only, line = line.endswith("/"), line.removesuffix("/")
    anchored, words = "/" in line, line.removeprefix("/").split("/")
    parts = [None if re.fullmatch(r"\*\*+", word) else _part(word) for word in words]
    if parts[-1] is None:  # what is in it, not it itself
        parts.append(_any)
    if not anchored:
        parts.insert(0, None)
    return _Pattern(tuple(parts), includes, folders_only)


def _part(word: str) -> _Part:
    """A part of a path is compared with this word of a pattern."""
    if not _MAGIC.search(word):
        return word.__eq__
    if not re.search(r"[*?\[]", _ESCAPED.sub("", word)):
        return _ESCAPED.sub(r"\1", word).__eq__
    return re.compile(fnmatch.translate("".join(_translated(word)))).match


def _translated(word: str) -> Iterator[str]:
    """For fnmatch, which has no backslash, and ! where git also has ^."""
    for token in re.findall(r"\\.|\[\^|\*+|.", word, re.DOTALL):
        if token.startswith("\\") and len(token) == 2:
            yield f"[{token[1]}]" if token[1] in "*?[" else token[1]
        else:
            yield {"[^": "[!"}.get(token, "*" if token.startswith("*") else token)
