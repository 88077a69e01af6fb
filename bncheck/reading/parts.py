"""Which files a checkpoint consists of, as far as their names tell without reading it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final

from bncheck.core.errors import BncheckError
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
    with open(path, "rb") as file:
        if file.read(1) != _VERSION and path.suffix != ".onnx":
            return frozenset()
        file.seek(0)
        here = os.urandom(16).hex()
        found = {name for data in _told(path, file, here) for name in _named(data)}
        return frozenset(found - {here})


def _told(path: Path, file: BinaryIO, here: str) -> Iterator[bytes]:
    """A model without its weights; all of it, piece by piece, where these are not plain numbers.

    The weights are said to lie `here`.
    """
    from bncheck.core.budget import Budget
    from bncheck.reading.onnx_weights import thinned
    from bncheck.reading.source import Source

    with contextlib.suppress(BncheckError):
        light = thinned(Source.open(path, Budget()), here)
        if light is not None:
            yield light
            return
    rest = b""
    while chunk := file.read(_CHUNK):
        yield rest + chunk
        rest = (rest + chunk)[-_LONGEST:]


def _named(data: bytes) -> Iterator[str]:
    for entry in _LOCATION.finditer(data):
        low, *high = entry[1]
        length = low & 0x7F | (high[0] << 7 if high else 0)
        yield os.fsdecode(data[entry.end() : entry.end() + length])
