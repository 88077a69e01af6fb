"""Which files a checkpoint consists of, as far as their names tell without reading it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bncheck.core.errors import BncheckError
from bncheck.reading.safetensors_file import shard_names
from bncheck.reading.source import Source

#: An entry of TensorProto.external_data on the wire, up to the length of its value.
_LOCATION: Final = re.compile(rb"\x0a\x08location\x12([\x00-\x7f]|[\x80-\xff][\x00-\x7f])")
_CHUNK: Final = 1 << 24
_LONGEST: Final = 1 << 14


def files_of(path: Path) -> Iterator[Path]:
    """The file; all files of a folder; with an index its shards, with an ONNX model its data."""
    if os.path.isdir(path):
        for place, _, names in os.walk(path):
            yield from (Path(place, name) for name in names)
        return
    yield path
    with contextlib.suppress(BncheckError, OSError):
        if path.name.endswith(".index.json"):
            yield from (path.parent / name for name in shard_names(path))
        elif path.suffix == ".onnx":
            yield from (path.parent / name for name in _locations(Source.open(path)))


def _locations(source: Source) -> set[str]:
    """Where an ONNX model says that its data are, found without parsing it."""
    found = set()
    for start in range(0, source.size, _CHUNK):
        data = source.read(start, min(_CHUNK + _LONGEST, source.size - start))
        for entry in _LOCATION.finditer(data):
            low, *high = entry[1]
            length = low & 0x7F | (high[0] << 7 if high else 0)
            found.add(os.fsdecode(data[entry.end() : entry.end() + length]))
    return found
