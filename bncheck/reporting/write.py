"""Files appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from bncheck.errors import BncheckError


def check_target(path: Path) -> None:
    """Refuse, before any work is done, a target that cannot be written."""
    if path.is_dir():
        raise BncheckError("is a folder", "name a file to write", str(path))
    if not path.parent.is_dir():
        raise BncheckError("lies in a folder that does not exist", "create it first", str(path))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text: into a temporary file beside the target, then renamed over it."""
    with replacing(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the target's place when the block ends; nothing is left if it fails."""
    check_target(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, _mode(path))
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
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
