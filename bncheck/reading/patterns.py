"""Files that a pattern names, as `glob` finds them, on a walk that ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fnmatch import fnmatch

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_PATTERN_ENTRIES
from bncheck.core.matching import is_pattern


def matching(pattern: str) -> list[str]:
    """The paths that match, sorted; `**` is any number of folders, `*` leaves out `.name`.

    Python's glob would walk as far as there are folders. Raises BncheckError where more than
    MAX_PATTERN_ENTRIES would have to be looked at.
    """
    root = os.sep if os.path.isabs(pattern) else ""
    parts = [part for part in pattern.split(os.sep) if part not in ("", ".")]
    found: set[str] = set()
    walk, todo = _Walk(), [(root, parts)]
    while todo:
        folder, (part, *rest) = todo.pop()
        deep = part == "**"
        if deep and rest:  # no folder at all
            todo.append((folder, rest))
        for path, is_folder in walk.below(folder, part):
            if not rest:
                found.add(path)
            if is_folder and (deep or rest):
                todo.append((path, [part, *rest] if deep else rest))
    return sorted(found)


def meant(word: str) -> list[str]:
    """The files that match where it is a pattern, and the file of that very name.

    Both, for a stranger may have called a file `*.pt` to be found in the place of all others.
    """
    found = matching(word) if is_pattern(word) else []
    return found if word in found or not os.path.lexists(word) else [*found, word]


class _Walk:
    """What lies in folders, counted."""

    def __init__(self) -> None:
        self._seen = 0

    def below(self, folder: str, part: str) -> Iterator[tuple[str, bool]]:
        """The entries that one part of a pattern matches, and whether each is a folder."""
        if not is_pattern(part):
            path = os.path.join(folder, part)
            if os.path.lexists(path):
                yield path, os.path.isdir(path)
            return
        with contextlib.suppress(OSError), os.scandir(folder or ".") as entries:
            for entry in entries:
                self._count()
                hidden = entry.name.startswith(".") and not part.startswith(".")
                if not hidden and fnmatch(entry.name, part):
                    yield os.path.join(folder, entry.name), entry.is_dir()

    def _count(self) -> None:
        self._seen += 1
        if self._seen > MAX_PATTERN_ENTRIES:
            raise BncheckError(
                f"would look at more than {MAX_PATTERN_ENTRIES:,} files and folders "
                "(limit MAX_PATTERN_ENTRIES)",
                "start it with the folder that holds them",
            )
