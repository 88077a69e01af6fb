"""Remote checkpoints for commands that need all of their bytes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from bncheck.core.errors import BncheckError
from bncheck.core.words import unsaid
from bncheck.reading.opening import weights_in
from bncheck.reading.parts import files_of
from bncheck.reading.referred import referred
from bncheck.reading.remote import Remote, StandardInput, is_local
from bncheck.reading.standard_input import piped
from bncheck.reading.temporary import temporary_folder

_PIECE = 1 << 23


@contextlib.contextmanager
def downloaded(path: Path, say: Callable[[str], None] = unsaid) -> Iterator[Path]:
    """The path itself, or a copy in a temporary folder of what is not in the file system.

    What is said about the copy is said about what the user named.
    """
    if is_local(path):
        yield path
        return
    local = piped() if isinstance(path, StandardInput) else _download(path, say)
    try:
        yield local
    except BncheckError as error:
        if error.subject == str(local):
            raise BncheckError(error.sentence, error.hint, str(path)) from error
        raise


def _download(path: Path, say: Callable[[str], None]) -> Path:
    assert isinstance(path, Remote)
    try:
        if path.is_dir():
            folder = temporary_folder() / path.name
            for name in weights_in(path):
                _with_parts(path / name, folder, say)
            return folder
        return _with_parts(path, temporary_folder() / "one", say)
    except BncheckError as error:
        raise (error if error.subject else error.about(str(path))) from None


def _with_parts(path: Remote, folder: Path, say: Callable[[str], None]) -> Path:
    """A file, and the shards or external data that it names, which lie beside it."""
    local = _copied(path, folder / path.name.partition("?")[0], say)
    for part in files_of(local):
        if part != local:
            name = os.fspath(part.relative_to(local.parent))
            afar = referred(path.parent, name)
            assert isinstance(afar, Remote)
            _copied(afar, local.parent / name, say)
    return local


def _copied(path: Remote, local: Path, say: Callable[[str], None]) -> Path:
    if local.exists():
        return local
    from bncheck.reading.ranges import fetched_file

    local.parent.mkdir(parents=True, exist_ok=True)
    file, place = fetched_file(path), 0
    with open(local, "wb") as out:
        while place < file.size:
            say(f"downloading {path.name}: {place / 1e6:,.0f} of {file.size / 1e6:,.0f} MB")
            place += out.write(file.read(place, _PIECE))
    return local
