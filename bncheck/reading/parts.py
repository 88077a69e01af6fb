"""Which files a checkpoint consists of, as far as their names tell without reading it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

from bncheck.core.limits import MAX_ONNX_BYTES, MAX_TEXT_RECORD_BYTES

#: An entry of TensorProto.external_data on the wire, up to the length of its value.
_LOCATION: Final = re.compile(rb"\x0a\x08location\x12([\x00-\x7f]|[\x80-\xff][\x00-\x7f])")
#: The tag of ModelProto.ir_version, with which a model begins.
_VERSION: Final = b"\x08"
#: A name that an index may give to a shard.
_SHARD: Final = re.compile(r':\s*"([^"\\/]+)"')
_CHUNK: Final = 1 << 24
_LONGEST: Final = 1 << 14


def files_of(path: Path) -> Iterator[Path]:
    """The file; all files of a folder; with an index its shards, with an ONNX model its data."""
    if os.path.isdir(path):
        for place, _, names in os.walk(path):
            yield from (Path(place, name) for name in names)
        return
    yield path
    with contextlib.suppress(OSError, ValueError):
        if not path.is_file():
            return
        status = path.stat()
        size = status.st_size
        if path.name.endswith(".index.json") and size <= MAX_TEXT_RECORD_BYTES:
            shards = {found[1] for found in _SHARD.finditer(path.read_text("utf-8"))}
            yield from (path.parent / name for name in shards)
        elif size <= MAX_ONNX_BYTES:
            found = _locations(path, status.st_mtime_ns, size)
            yield from (path.parent / name for name in sorted(found))


@lru_cache(maxsize=64)
def _locations(path: Path, _changed: int, _size: int) -> frozenset[str]:
    """Where an ONNX model says that its data are, found without parsing it.

    A command checks its outputs more than once; a file is read again where it has changed.
    """
    found: set[str] = set()
    with open(path, "rb") as file:
        rest = file.read(1)
        if rest != _VERSION and path.suffix != ".onnx":
            return frozenset()
        while chunk := file.read(_CHUNK):
            data = rest + chunk
            for entry in _LOCATION.finditer(data):
                low, *high = entry[1]
                length = low & 0x7F | (high[0] << 7 if high else 0)
                found.add(os.fsdecode(data[entry.end() : entry.end() + length]))
            rest = data[-_LONGEST:]
    return frozenset(found)
