"""Which files a checkpoint consists of, as far as their names tell without reading it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_TEXT_RECORD_BYTES
from bncheck.reading.json_text import parse

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
    with contextlib.suppress(
        BncheckError, OSError, ValueError, KeyError, TypeError, AttributeError
    ):
        if not path.is_file():
            return
        if path.name.endswith(".index.json") and path.stat().st_size <= MAX_TEXT_RECORD_BYTES:
            shards = set(parse(path.read_text("utf-8"))["weight_map"].values())
            yield from (path.parent / str(name) for name in shards)
        elif path.suffix == ".onnx":
            yield from (path.parent / name for name in _locations(path))


def _locations(path: Path) -> set[str]:
    """Where an ONNX model says that its data are, found without parsing it."""
    found = set()
    with open(path, "rb") as file:
        rest = b""
        while chunk := file.read(_CHUNK):
            data = rest + chunk
            for entry in _LOCATION.finditer(data):
                low, *high = entry[1]
                length = low & 0x7F | (high[0] << 7 if high else 0)
                found.add(os.fsdecode(data[entry.end() : entry.end() + length]))
            rest = data[-_LONGEST:]
    return found
