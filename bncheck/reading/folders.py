"""The checkpoints in a folder of a user: runs, snapshots, a repository.

Left out, and counted, is what nobody means: hidden files and folders, what .gitignore names (in a
repository, as git reads it; git itself is not run, for a repository may make it run code), and
files that are no checkpoints by their ending and their first bytes. A folder that one loader reads
as a whole is one checkpoint.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_PATTERN_ENTRIES
from bncheck.core.words import count
from bncheck.reading.foreign import refuse_foreign_folder
from bncheck.reading.ignoring import Ignoring, Rules
from bncheck.reading.opening import WEIGHT_ENDINGS, weights_in
from bncheck.reading.parts import files_of
from bncheck.reading.torch_files import LEGACY_MAGIC

#: Where `archive/data.pkl`, the first record of a torch file, has its name.
_NAMES: Final = 256
#: What Hugging Face's Trainer and accelerate keep beside a model to go on with.
_TRAINER_STATE: Final = re.compile(
    r"(?:optimizer|scheduler|scaler|sampler|rng_state|random_states|training_args)\b"
    r"|(?:optimizer|scheduler|sampler|rng_state)_\d+\."
)


@dataclass
class Found:
    """Checkpoints in a folder, in the order of their paths, and what was left out."""

    folder: Path
    checkpoints: list[Path] = field(default_factory=list)
    hidden: int = 0
    ignored: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def left_out(self) -> str:
        """`3 files in .gitignore, 1 hidden, 12 that are no checkpoints (.py, .npz)`, or nothing."""
        parts = []
        if self.ignored:
            parts.append(f"{count(len(self.ignored), 'entry', 'entries')} in .gitignore")
        if self.hidden:
            parts.append(f"{count(self.hidden, 'hidden entry', 'hidden entries')}")
        if self.others:
            kinds = ", ".join(kind or "no ending" for kind, _ in self.others.most_common(3))
            more = ", ..." if len(self.others) > 3 else ""
            parts.append(f"{count(self.others.total(), 'other file')} ({kinds}{more})")
        return ", ".join(parts)


def checkpoints_in(folder: Path) -> Found:
    """What is to be read in a folder; itself, where it is one checkpoint. Raises BncheckError."""
    found = Found(folder)
    if _is_whole(folder):
        found.checkpoints.append(folder)
        return found
    ignoring = Ignoring()
    rules = _rules_above(folder, ignoring)
    _Walk(found, ignoring if rules is not None else None).through(folder, rules or [])
    shards = {part for path in found.checkpoints if _is_index(path) for part in files_of(path)}
    found.checkpoints = [p for p in found.checkpoints if _is_index(p) or p not in shards]
    found.checkpoints.sort(key=lambda path: path.parts)
    if not found.checkpoints:
        _refuse_foreign(folder)
        raise BncheckError(*_nothing(found), str(folder))
    return found


def unread_in(folder: Path) -> list[Path]:
    """Other checkpoints in a folder that is read as one, and below it; a trainer's state is none.

    Raises BncheckError where it holds more than can be looked through.
    """
    found = Found(folder)
    _Walk(found, None).through(folder, [])
    read = {part for name in weights_in(folder) for part in files_of(folder / name)}
    others = [path for path in found.checkpoints if path not in read]
    shards = {part for path in others if _is_index(path) for part in files_of(path)}
    others = [path for path in others if _is_index(path) or path not in shards]
    return sorted(path for path in others if not _TRAINER_STATE.match(path.name))


def _refuse_foreign(folder: Path) -> None:
    """Raise BncheckError for a folder of another framework, or one of such folders."""
    for place in (folder, *sorted(item for item in folder.iterdir() if item.is_dir())):
        try:
            refuse_foreign_folder(place)
        except BncheckError as error:
            raise error.about(str(place)) from None


def _nothing(found: Found) -> tuple[str, str]:
    ignored = [path for path in found.ignored if path.suffix in WEIGHT_ENDINGS]
    if ignored:
        return (
            f"holds no checkpoint that .gitignore does not name ({found.left_out()})",
            f"name what is meant, such as {ignored[0]} or '{found.folder}/*{ignored[0].suffix}'",
        )
    there = found.left_out()
    return f"holds no checkpoint{f' ({there})' if there else ''}", "check the path"


class _Walk:
    """Goes through a folder once; links to folders are not followed."""

    def __init__(self, found: Found, ignoring: Ignoring | None) -> None:
        self._found = found
        self._ignoring = ignoring
        self._seen = 0

    def through(self, folder: Path, rules: Sequence[Rules]) -> None:
        """Take in what is in the folder, and below; a stranger's may be deeper than calls go."""
        left = [(folder, rules)]
        while left:
            left += self._into(*left.pop())

    def _into(self, folder: Path, rules: Sequence[Rules]) -> Iterator[tuple[Path, Sequence[Rules]]]:
        """Take in one folder; gives those in it that are to be gone through."""
        own = self._ignoring.rules_in(folder) if self._ignoring is not None else None
        rules = [*rules, own] if own is not None else rules
        for entry in self._entries(folder):
            path, is_folder = folder / entry.name, entry.is_dir(follow_symlinks=False)
            if entry.name.startswith("."):
                self._found.hidden += 1
            elif self._ignoring is not None and self._ignoring.leaves_out(rules, path, is_folder):
                self._found.ignored.append(path)
            elif not is_folder:
                self._file(path)
            elif _is_whole(path):
                self._found.checkpoints.append(path)
            else:
                yield path, rules

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        entries = []
        try:
            with os.scandir(folder) as found:
                for entry in found:
                    self._count()
                    entries.append(entry)
        except OSError as error:
            raise BncheckError(
                f"cannot be read ({error.strerror})", "check its permissions", str(folder)
            ) from None
        return sorted(entries, key=lambda entry: entry.name)

    def _file(self, path: Path) -> None:
        known = path.suffix.lower() in WEIGHT_ENDINGS or _is_index(path)
        if os.path.isfile(path) and (known or _is_checkpoint(path)):  # False for links in a circle
            self._found.checkpoints.append(path)
        else:
            self._found.others[path.suffix.lower()] += 1

    def _count(self) -> None:
        self._seen += 1
        if self._seen > MAX_PATTERN_ENTRIES:
            raise BncheckError(
                f"holds more than {MAX_PATTERN_ENTRIES:,} files and folders "
                "(limit MAX_PATTERN_ENTRIES)",
                "name the folder that holds the checkpoints",
                str(self._found.folder),
            )


def _is_index(path: Path) -> bool:
    return path.name.endswith(".index.json")


def _is_whole(folder: Path) -> bool:
    """Whether one loader reads the folder as a checkpoint; which one is not asked here."""
    try:
        return bool(weights_in(folder))
    except BncheckError:
        return True


def _is_checkpoint(path: Path) -> bool:
    """Whether a file of any name begins as torch and safetensors let files begin."""
    try:
        with open(path, "rb") as file:
            head = file.read(_NAMES)
    except OSError:
        return False
    header = int.from_bytes(head[:8], "little")
    is_safetensors = head[8:10] == b'{"' and header < path.stat().st_size
    is_torch = head.startswith(b"PK\x03\x04") and b"/data.pkl" in head
    return is_safetensors or is_torch or head.startswith(LEGACY_MAGIC)


def _rules_above(folder: Path, ignoring: Ignoring) -> list[Rules] | None:
    """Those from the repository's root down to the folder, unless they leave out the folder itself,
    which the user has named. None where there is no repository.
    """
    here = Path(os.path.abspath(folder))
    root = next((p for p in (here, *here.parents) if (p / ".git").exists()), None)
    if root is None:
        return None
    above = [p for p in reversed((here, *here.parents)) if p == root or root in p.parents]
    rules = [found for place in above[:-1] if (found := ignoring.rules_in(place))]
    return [rule for rule in rules if not rule.leaves_out_below(here)]
