"""The files that a command line names: paths, folders, patterns in quotes, URLs, standard input."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from bncheck.cli import console
from bncheck.core.errors import BncheckError
from bncheck.core.words import Note, count

#: What an argument may be, in the words of --help.
PLACES: Final = "Files, folders, URLs (https, hf, s3, gs), '*.pt', or - for standard input."
PLACE: Final = "A file, a checkpoint's folder, a URL, or - for standard input."


def place(word: str) -> Path:
    """The one file that a word names. Raises BncheckError."""
    from bncheck.reading.remote import place_of

    if word == "-" and os.path.lexists(word):  # a stranger may have called a file so
        raise BncheckError(
            "is both standard input and a file in this folder", "write ./- for the file", word
        )
    return place_of(word)


def places(words: Iterable[str]) -> list[Path]:
    """All that the words name, each once, in their order; what is left out is said.

    Raises BncheckError for a folder or a pattern without any checkpoint.
    """
    return list(dict.fromkeys(path for word in words for path in _meant(word)))


def _meant(word: str) -> Iterator[Path]:
    from bncheck.core.matching import is_pattern
    from bncheck.reading.patterns import meant
    from bncheck.reading.remote import Remote

    path = place(word)
    if isinstance(path, Remote):
        yield from path.matching()
    elif os.path.isdir(path):
        yield from _in_folder(path)
    elif is_pattern(word) and (meant(word) or not os.path.lexists(word)):
        found = meant(word)
        if not found:
            raise BncheckError("matches no file", "check the pattern", word)
        for name in found:
            yield from _in_folder(Path(name)) if os.path.isdir(name) else [Path(name)]
    else:
        yield path


def _in_folder(folder: Path) -> list[Path]:
    from bncheck.reading.folders import checkpoints_in

    found = checkpoints_in(folder)
    if left_out := found.left_out():
        there = count(len(found.checkpoints), "checkpoint")
        console.note(f"{folder}: {there}; left out: {left_out}")
    return found.checkpoints


@contextlib.contextmanager
def whole(path: Path) -> Iterator[tuple[Path, Note]]:
    """A file on disk with all of it, downloaded where it must be, and who is told about it."""
    from bncheck.reading.downloading import downloaded
    from bncheck.reading.remote import is_local

    if is_local(path):
        yield path, console.note
        return
    with contextlib.ExitStack() as stack:
        with console.status() as say:
            local = stack.enter_context(downloaded(path, say))
        yield local, lambda line: console.note(line.replace(str(local), str(path)))


def say_traffic(paths: Iterable[Path]) -> None:
    """How much of the remote files was read."""
    from bncheck.reading.remote import Remote

    for path in paths:
        if isinstance(path, Remote):
            from bncheck.reading.ranges import traffic

            fetched, size = traffic(path)
            if size:
                console.note(
                    f"{path}: read {_bytes(fetched)} of {_bytes(size)}; BN117, which needs the "
                    "weights, is judged where the file is downloaded"
                )


def _bytes(number: int) -> str:
    """38 kB, 0.4 MB, 9.8 GB."""
    if number < 100_000:
        return f"{number / 1e3:.0f} kB"
    return f"{number / 1e6:.1f} MB" if number < 1e9 else f"{number / 1e9:.1f} GB"
