"""Files appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bncheck.core.errors import BncheckError


def check_target(path: Path) -> None:
    """Refuse, before any work is done, a target that cannot be written."""
    if "\0" in str(path):
        raise BncheckError("is no name for a file", "choose another", str(path))
    with explained(path):  # a name may be too long even to be looked for
        _check_target(path)


def _check_target(path: Path) -> None:
    if path.is_dir():
        raise BncheckError("is a folder", "name a file to write", str(path))
    if path.exists() and not path.is_file():  # a rename would put a file in the place of /dev/null
        raise BncheckError("is no regular file", "name another, or leave it out", str(path))
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
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside the target, renamed over it at the end unless something is raised.

    It keeps the target's ending, because readers go by it.
    """
    check_target(path)
    with explained(path):
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem[:40]}.", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, _mode(path))
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


@contextlib.contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """The same for a folder, which must not exist yet."""
    if os.path.exists(path):
        raise BncheckError("exists already", "name a folder to create", str(path))
    check_target(path)
    with explained(path):
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", dir=path.parent))
        try:
            yield temporary
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o777 & ~mask)
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """What the system has against writing there, as a BncheckError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise BncheckError(f"cannot be written ({reason})", "choose another", str(path)) from None


def _mode(path: Path) -> int:
    """The mode of the file that is replaced, or what `open` would have given a new one."""
    with contextlib.suppress(OSError):
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
