"""More of something than any checkpoint has: each hits a limit of bncheck.core.limits."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from tests.hostile.assembler import PROTO, dict_, get, in_zip, name, put, tensor, text
from tests.hostile.case import ANY, FOUND, REFUSED, add, case, file, pack, saved
from tests.hostile.programs import exported
from tests.hostile.size import many


def layers(count: int) -> bytes:
    """So many layers over one tensor."""
    parts = ("running_mean", "running_var")
    names = [text(f"l{n}.{part}") + get(0) for n in range(count) for part in parts]
    return tensor() + put(0) + b"0}(" + b"".join(names) + b"u"


def _wide() -> bytes:
    return text("\U0001f600" + "a" * many(15_000_000))  # four bytes a letter in memory


for _name, _codes, _what, _body in (
    ("marks", REFUSED, "2.8 million MARKs", lambda: b"(" * many(2_800_000) + b"N"),
    ("tuples", REFUSED, "2.8 million tuples in each other",
     lambda: b")" + b"\x85" * many(2_800_000)),
    ("lists", REFUSED, "2.8 million empty lists", lambda: b"(" + b"]" * many(2_800_000) + b"l"),
    ("layers", REFUSED, "10,001 layers that are one tensor", lambda: layers(10_001)),
    ("text", REFUSED, "30 MB of text that takes four times that", lambda: b"(" + _wide() * 2),
    ("bytes", REFUSED, "80 MB of short byte strings",
     lambda: b"(" + (b"B" + struct.pack("<I", 4000) + bytes(4000)) * many(17_000)),
):  # fmt: skip
    add(f"abundant-{_name}", _codes, _what, partial(in_zip, body=_body))
for _name, _codes, _what, _body in (
    ("tensors", REFUSED, "400,000 names of one tensor", lambda: layers(many(200_000))),
    ("memo", ANY, "4.9 million numbered values", lambda: b"N" + b"\x94" * many(4_900_000)),
    ("floats", ANY, "4.9 million floats",
     lambda: b"(" + b"G?\xf0\0\0\0\0\0\1" * many(4_900_000) + b"l"),
    ("dicts", ANY, "1.6 million empty dicts", lambda: b"(" + b"}" * many(1_600_000) + b"l"),
):  # fmt: skip
    add(f"abundant-{_name}", _codes, _what, partial(in_zip, body=_body), long=True)


def _findings(folder: Path) -> Path:
    numbers = np.array([0.5, np.nan, 1, -1], np.float32).tobytes()
    records = {
        "m/data.pkl": PROTO + layers(many(10_000)) + b".",
        "m/data/0": numbers,
        "m/version": b"3",
    }
    return pack(folder / "model.pt", records)


def _parts(folder: Path) -> Path:
    one = {"running_mean": tensor(), "running_var": tensor()}
    return in_zip(folder, b"(" + dict_(one) * many(30_000) + b"l")


add("abundant-findings", FOUND, "10,000 layers, all of them broken: the most that are judged",
    _findings, long=True)  # fmt: skip
add("abundant-parts", ANY, "30,000 modules in a list: each a part of the file that could be taken",
    _parts, long=True)  # fmt: skip


def _safetensors(folder: Path, count: int, padding: int = 0) -> Path:
    header: dict[str, object] = {
        f"l{n}.weight": {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]}
        for n in range(count)
    }
    header |= {"__metadata__": {"x": "y" * padding}} if padding else {}
    raw = json.dumps(header).encode()
    return file(folder, struct.pack("<Q", len(raw)) + raw + bytes(4 * count), "m.safetensors")


add("abundant-safetensors", REFUSED, "150,000 tensors in a header of 14 MB",
    lambda folder: _safetensors(folder, many(150_000)))  # fmt: skip
add("abundant-metadata", REFUSED, "34 MB of metadata",
    lambda folder: _safetensors(folder, 1, many(34_000_000)))  # fmt: skip


_INDEX = "model.safetensors.index.json"


@case(REFUSED, "300,000 tensors in an index")
def abundant_index(folder: Path) -> Path:
    weight_map = {f"l{n}.weight": "a" for n in range(many(300_000))}
    return file(folder, json.dumps({"weight_map": weight_map}).encode(), _INDEX)


@case(REFUSED, "a million objects in an index")
def abundant_index_json(folder: Path) -> Path:
    return file(folder, b'{"weight_map": {}, "x": [' + b"{}," * many(1_000_000) + b"{}]}", _INDEX)


@case(REFUSED, "a million objects in the JSON of a program")
def abundant_exported(folder: Path) -> Path:
    records = exported(folder)
    key = next(record for record in records if record.endswith("models/model.json"))
    records[key] = b'{"x": [' + b"{}," * many(1_000_000) + b"{}]," + records[key][1:]
    return pack(folder / "model.pt2", records)


@case(REFUSED, "a zip archive with a directory of 50 MB")
def abundant_records(folder: Path) -> Path:
    data = saved(folder).read_bytes()
    start, end = data.index(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", *[0] * 9, 9, *[0] * 6)
    entries = b"".join(entry + b"saved/%03d" % (n % 1000) for n in range(many(900_000)))
    size = len(entries) + end - start
    tail = data[end : end + 12] + struct.pack("<II", size, start) + data[end + 20 :]
    return file(folder, data[:end] + entries + tail)


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def _onnx(folder: Path, field: bytes, count: int, inside: Callable[[bytes], bytes]) -> Path:
    return file(folder, b"\x08\x08" + inside(field * many(count)), "model.onnx")


def _graph(fields: bytes) -> bytes:
    return b"\x3a" + varint(len(fields)) + fields


_NORM = b"\x22\x12BatchNormalization\x1a\x01a"
for _name, _what, _field, _count, _inside in (
    ("fields", "ten million fields that say nothing", b"\x08\x08", 10_000_000, bytes),
    ("nodes", "a million empty nodes", b"\x0a\x00", 1_000_000, _graph),
    ("initializers", "a million empty tensors", b"\x2a\x00", 1_000_000, _graph),
    ("namesakes", "15,000 layers of one name", b"\x0a" + varint(len(_NORM)) + _NORM, 15_000,
     _graph),
):  # fmt: skip
    add(f"abundant-onnx-{_name}", REFUSED, _what,
        partial(_onnx, field=_field, count=_count, inside=_inside))  # fmt: skip


@case(ANY, "a million tensors that are not read, each with a reason")
def abundant_opaque_tensors(folder: Path) -> Path:
    make = name("torch", "Tensor") + put(0) + b"0"
    return in_zip(folder, make + b"](" + b"h\x00)R" * many(950_000) + b"e")
