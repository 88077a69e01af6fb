"""The one door to files that a checkpoint refers to: shards, chunks, external data, an index.

Such a file lies in the folder of the checkpoint, by its name and by where links lead. One layout
whose links leave the folder is honest, the Hugging Face cache: REPO/snapshots/REVISION/... leads to
REPO/blobs/DIGEST. It is told from an escape by where both really lie: open is the folder `blobs`
beside the `snapshots` that the checkpoint itself is in, and only if it is not a link.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Final

from bncheck.core.errors import BncheckError
from bncheck.reading.remote import Remote

#: What a server may take for another folder (`%2e%2e/`), a query or a fragment.
_STEERING: Final = frozenset("%?#")


def referred(folder: Path, name: str, raw: bool = False) -> Path:
    """The file that a checkpoint in the folder calls `name`. Raises BncheckError for any other.

    Where its bytes are numbers whatever they are (`raw`), it is not a hard link: an unpacked
    archive can have made one to any file, of which the report would then tell (CVE-2026-34446).
    """
    path = folder / relative(name)
    if isinstance(path, Remote):  # there are no links to follow, and opening it tells the rest
        if path.scheme in ("http", "https") and set(name) & _STEERING:
            raise BncheckError(
                f"refers to a file {name[:60]!r} whose name would steer a URL",
                "do not trust it; download the checkpoint again",
            )
        return path
    if not os.path.isfile(path):  # unlike Path.is_file, False for any name
        raise BncheckError(
            f"refers to a file {name[:60]!r} that does not exist", "get that file as well"
        )
    home, real = os.path.realpath(folder), os.path.realpath(path)
    if os.path.commonpath([home, real]) != home and os.path.dirname(real) != _blobs(home):
        raise BncheckError(
            f"refers to a file {name[:60]!r} that links out of its folder",
            "copy the file into the folder",
        )
    if raw and os.stat(real).st_nlink > 1:
        raise BncheckError(f"keeps its data in the hard link {name[:60]!r}", "copy the data")
    return path


def relative(name: str) -> PurePosixPath:
    """A name that leads into no other folder than that it is looked for in, or below."""
    path = PurePosixPath(name)
    odd = "\\" in name or "\0" in name
    if odd or path.is_absolute() or ".." in path.parts or not path.parts:
        raise BncheckError(
            f"refers to a file {name[:60]!r} outside its own folder",
            "do not trust it; download the checkpoint again",
        )
    return path


def _blobs(home: str) -> str | None:
    """Where the links of a snapshot of the Hugging Face cache lead; None for other folders."""
    parts = Path(home).parts
    if "snapshots" not in parts:
        return None
    last = len(parts) - 1 - parts[::-1].index("snapshots")
    return os.path.join(*parts[:last], "blobs") if last < len(parts) - 1 else None
