"""Files appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bncheck.core.errors import BncheckError
from bncheck.reading.parts import files_of
from bncheck.writing.leftovers import prefix, sweep


def check_target(path: Path) -> None:
    """Refuse, before any work is done, a target that cannot be written."""
    if "\0" in str(path):
        raise BncheckError("is not a file name", "choose another", str(path))
    if str(path) == "-":  # where it is read, it would be standard input
        raise BncheckError(
            "is not a file name", "name a file; a report goes to stdout by itself", "-"
        )
    with explained(path):  # a name may be too long even to be looked for
        _check_target(path)


def _check_target(path: Path) -> None:
    if path.is_symlink():  # of a stranger, it may lead to any file of yours
        leads = os.path.realpath(path)
        raise BncheckError(f"is a symbolic link to {leads}", "name that file itself", str(path))
    if path.is_dir():
        raise BncheckError("is a folder", "name a file to write", str(path))
    if path.exists() and not path.is_file():  # a rename would put a file in the place of /dev/null
        raise BncheckError("is not a regular file", "name another, or leave it out", str(path))
    if path.exists() and not os.access(path, os.W_OK):
        raise BncheckError("is write-protected", "name another file", str(path))
    if not path.parent.is_dir():
        raise BncheckError("lies in a folder that does not exist", "create it first", str(path))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise BncheckError("lies in a folder that cannot be written to", "name another", str(path))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text: into a temporary file beside the target, then renamed over it."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


@contextlib.contextmanager
def replacing(path: Path, original: Path | None = None) -> Iterator[Path]:
    """A temporary file beside the target, renamed over it at the end unless something is raised.

    It keeps the target's ending, because readers go by it. What holds the content of `original`, a
    file or a folder, is not open to anyone to whom that is closed.
    """
    check_target(path)
    with explained(path):
        sweep(path.parent)
        handle, name = tempfile.mkstemp(
            prefix=prefix(path.stem), suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, usual_mode(path) & most_open(original, temporary))
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A folder beside the target, open to its owner alone, that is gone at the end."""
    with explained(path):
        sweep(path.parent)
        temporary = Path(tempfile.mkdtemp(prefix=prefix(path.name), dir=path.parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def creating_folder(path: Path, original: Path | None = None) -> Iterator[Path]:
    """The same as `replacing` for a folder, which must not exist yet: a copy of a folder."""
    if os.path.exists(path):
        raise BncheckError("exists already", "name a folder to create", str(path))
    check_target(path)
    with temporary_folder(path) as temporary, explained(path):
        yield temporary
        most = 0o777 if original is None else copied_mode(original, temporary)
        temporary.chmod(usual_mode(path, 0o777) & most)
        os.rename(temporary, path)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """What the system has against writing there, as a BncheckError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise BncheckError(f"cannot be written ({reason})", "choose another", str(path)) from None


def check_read_back(path: Path, is_same: Callable[[], bool]) -> None:
    """Raise BncheckError unless what was written for `path` reads back as what was proven.

    For use before it gets its name. `is_same` reads it and tells; it may raise anything.
    """
    why = ""
    try:
        if is_same():
            return
    except Exception as error:
        why = f" ({(str(error).splitlines() or [type(error).__name__])[0][:160]})"
    raise BncheckError(
        f"does not read back as what was proven{why}, so it is not kept",
        "check the disk, and run the command again",
        str(path),
    )


def usual_mode(path: Path, usual: int = 0o666) -> int:
    """The mode of the file that is replaced, or what `open` would have given a new one."""
    with contextlib.suppress(OSError):
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return usual & ~mask


def most_open(original: Path | None, made: Path) -> int:
    """The permissions that one file made of an original, a file or a folder, may have at most.

    They are those that all files of the original allow.
    """
    mode = 0o777
    if original is not None:
        if original.is_dir():  # who may not enter the folder reads nothing in it
            mode = (original.stat().st_mode & 0o111) * 7
        for file in files_of(original):
            with contextlib.suppress(OSError):  # a shard that is missing
                mode &= copied_mode(file, made)
    return mode


def copied_mode(original: Path, copy: Path) -> int:
    """The mode of a copy; another group than the original's gets what everybody gets."""
    status = os.stat(original)
    mode = status.st_mode & 0o777
    if os.stat(copy).st_gid != status.st_gid:
        mode &= 0o707 | (mode & 0o007) << 3
    return mode
