"""What ONNX, indices, headers and programs can say again and again in a few megabytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from tests.hostile.abundance import varint
from tests.hostile.assembler import PROTO, get, put, tensor, text
from tests.hostile.case import ANY, REFUSED, case, file, pack
from tests.hostile.programs import exported
from tests.hostile.repetition import ROLES, packed_root
from tests.hostile.size import many

# --- protobuf, again ------------------------------------------------------------------------------

_NODE = b"\x22\x12BatchNormalization"


def _field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def _model(folder: Path, graph: bytes) -> Path:
    return file(folder, b"\x08\x08" + _field(7, _field(1, _NODE) + graph), "model.onnx")


@case(ANY, "a million empty nodes behind a group, which ONNX does not have")
def repeated_onnx_group(folder: Path) -> Path:
    group = varint(99 << 3 | 3) + varint(99 << 3 | 4)
    return _model(folder, group + b"\x0a\x00" * many(1_500_000))


@case(ANY, "1.5 million empty device configurations of a node")
def repeated_onnx_devices(folder: Path) -> Path:
    return _model(folder, _field(1, _NODE + b"\x52\x00" * many(1_500_000)))


@case(ANY, "2,000 graphs in each other")
def repeated_onnx_nesting(folder: Path) -> Path:
    inner = b""
    for _ in range(2_000):  # attribute.g.node.attribute...
        inner = _field(1, _NODE + _field(5, _field(6, inner)))
    return _model(folder, inner)


@case(ANY, "40,000 initialisers with a name of a kilobyte")
def repeated_onnx_names(folder: Path) -> Path:
    initializers = [_field(5, _field(8, b"%09d" % n + b"a" * 1000)) for n in range(many(40_000))]
    return _model(folder, b"".join(initializers))


# --- names, indices, JSON -------------------------------------------------------------------------


@case(ANY, "an index of a million entries")
def repeated_index(folder: Path) -> Path:
    raw = json.dumps({"weight_map": {str(n): "a" for n in range(many(990_000))}}).encode()
    return file(folder, raw, "model.safetensors.index.json")


@case(ANY, "an index of 200,000 shards that are not there")
def repeated_absent_shards(folder: Path) -> Path:
    raw = json.dumps({"weight_map": {str(n): str(n) for n in range(many(200_000))}}).encode()
    return file(folder, raw, "model.safetensors.index.json")


@case(ANY, "an index of 200,000 names of one shard that is not a checkpoint")
def repeated_bad_shard(folder: Path) -> Path:
    raw = json.dumps(
        {"weight_map": {f"{n}.running_mean": "a" for n in range(many(9_000))}}
    ).encode()
    (folder / "a").write_bytes(PROTO + b"N" * many(3_000_000))
    return file(folder, raw, "model.safetensors.index.json")


@case(REFUSED, "a safetensors header of 30 MB with one letter of four bytes")
def repeated_wide_header(folder: Path) -> Path:
    meta = {"x": "\U0001f600" + "y" * many(30_000_000)}
    raw = json.dumps({"__metadata__": meta}, ensure_ascii=False).encode()
    return file(folder, struct.pack("<Q", len(raw)) + raw, "m.safetensors")


@case(ANY, "9,000 layers whose names are 7,000 letters long")
def repeated_long_names(folder: Path) -> Path:
    names = [text(f"{n}.{'a' * 7000}.{role}") + get(0) for n in range(4_500) for role in ROLES]
    return file(folder, packed_root(tensor() + put(0) + b"0}(" + b"".join(names) + b"u"))


@case(ANY, "a program of 100,000 calls of batch_norm")
def repeated_program(folder: Path) -> Path:
    records = exported(folder)
    key = next(record for record in records if record.endswith("models/model.json"))
    program = json.loads(records[key])
    nodes = program["graph_module"]["graph"]["nodes"]
    node = next(n for n in nodes if "batch_norm" in n["target"])
    nodes += [node | {"name": f"n{number}"} for number in range(many(9_000))]
    records[key] = json.dumps(program).encode()
    return pack(folder / "model.pt2", records)
