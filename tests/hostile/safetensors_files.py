"""Headers that safetensors refuses, and some that only cost too much."""

from __future__ import annotations

import json
import struct
from functools import partial
from pathlib import Path

from tests.hostile.case import ANY, REFUSED, add, file
from tests.hostile.pickles import DEEP


def _safetensors(folder: Path, header: bytes | object, data: bytes = bytes(32)) -> Path:
    text_ = header if isinstance(header, bytes) else json.dumps(header).encode()
    return file(folder, struct.pack("<Q", len(text_)) + text_ + data, "model.safetensors")


def _entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


MEAN, VAR = "bn.running_mean", "bn.running_var"
_GOOD = {MEAN: _entry([4], 0, 16), VAR: _entry([4], 16, 32)}
_RAW_MEAN = b'"bn.running_mean": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}'

for _name, _codes, _what, _header in (
    ("overlap", REFUSED, "two tensors over the same bytes",
     {MEAN: _entry([4], 0, 16), VAR: _entry([4], 8, 24)}),
    ("hole", REFUSED, "bytes that belong to nobody",
     {MEAN: _entry([3], 0, 12), VAR: _entry([4], 16, 32)}),
    ("trailing", REFUSED, "bytes behind the last tensor", {MEAN: _entry([4], 0, 16)}),
    ("beyond", REFUSED, "a tensor beyond the file", {MEAN: _entry([400], 0, 1600)}),
    ("backwards", REFUSED, "an end before its beginning",
     {MEAN: _entry([4], 16, 0), VAR: _entry([4], 16, 32)}),
    ("negative", REFUSED, "a negative offset", {MEAN: _entry([4], -16, 0)}),
    ("shape-overflow", REFUSED, "a shape whose product overflows",
     {MEAN: _entry([1 << 33, 1 << 33], 0, 32)}),
    ("shape-disagrees", REFUSED, "a shape that does not fit its bytes",
     {MEAN: _entry([5], 0, 32)}),
    ("unknown-dtype", REFUSED, "a dtype that nobody has", {MEAN: _entry([4], 0, 32, "F99")}),
    ("65-dimensions", ANY, "more dimensions than NumPy has",
     {MEAN: _entry([1] * 65 + [8], 0, 32)}),
    ("100000-dimensions", ANY, "a shape of 100,000 ones",
     {MEAN: _entry([1] * DEEP + [8], 0, 32)}),
    ("rows-of-nothing", ANY, "no elements, but 2^62 rows",
     {MEAN: _entry([1 << 62, 0], 0, 0), VAR: _entry([8], 0, 32)}),
    ("nan-in-header", REFUSED, "NaN is not JSON", {**_GOOD, "x": float("nan")}),
    ("deep-json", REFUSED, "100,000 arrays in each other",
     b'{"x":' + b"[" * DEEP + b"]" * DEEP + b"}"),
    ("duplicate", REFUSED, "a name twice",
     b"{" + _RAW_MEAN + b"," + _RAW_MEAN.replace(b"0, 16", b"16, 32") + b"}"),
    ("huge-number", REFUSED, "an offset of 5,000 digits",
     b"{" + _RAW_MEAN.replace(b"16]", b"9" * 5000 + b"]") + b"}"),
    ("not-utf-8", REFUSED, "a name that is not text",
     b"{" + _RAW_MEAN.replace(b"bn", b"\xff") + b"}"),
    ("not-json", REFUSED, "a brace and noise", b"{" + bytes(range(128, 256))),
):  # fmt: skip
    add(f"safetensors-{_name}", _codes, _what, partial(_safetensors, header=_header))

for _length in (100, 99_000_000, 1 << 63, 2**64 - 1):
    add(f"safetensors-header-of-{_length}", REFUSED, "a header longer than the file",
        partial(file, data=struct.pack("<Q", _length) + b'{"a": 1}',
                name="m.safetensors"))  # fmt: skip
