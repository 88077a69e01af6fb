"""Small things that a file asks for again and again: each is cheap, and a thousand are not."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from tests.hostile.abundance import layers, varint
from tests.hostile.assembler import (
    HOOKS,
    PROTO,
    call,
    dict_,
    get,
    integer,
    name,
    put,
    tensor,
    text,
    tuple_,
)
from tests.hostile.case import ANY, FOUND, READ, REFUSED, add, case, file
from tests.hostile.programs import NORM_CODE, torchscript, torchscript_norm
from tests.hostile.size import many

_FOUR = np.array([0.5, 0.25, 0.75, 1.5], np.float32).tobytes()
ROLES = ("running_mean", "running_var")

# --- TorchScript ----------------------------------------------------------------------------------


def _class(kind: str, body: bytes) -> bytes:
    return NORM_CODE.replace(b"BatchNorm2d", kind.encode()) + body + b"\n"


def _code(*texts: bytes) -> dict[str, bytes]:
    return {f"__torch__/c{n}.py" if n else "__torch__.py": text for n, text in enumerate(texts)}


@case(REFUSED, "300 BatchNorms of one TorchScript class of 30 MB")
def repeated_class(folder: Path) -> Path:
    body = b"  torch.batch_norm(x, " * many(1_400_000)
    return torchscript(folder, _code(_class("BatchNorm2d", body)), norms=[torchscript_norm()] * 300)


@case(ANY, "4,000 TorchScript classes in one file of 30 MB")
def repeated_classes(folder: Path) -> Path:
    kinds = [f"BatchNorm{number}d" for number in range(many(4000))]
    code = b"".join(_class(kind, b" " * 7000) for kind in kinds)
    return torchscript(folder, _code(code), norms=[*map(torchscript_norm, kinds)])


def _wide() -> bytes:
    return NORM_CODE + b"# \xf0\x9f\x98\x80" + b" " * many(30_000_000)


@case(ANY, "30 MB of TorchScript code with one letter of four bytes")
def repeated_wide_letter(folder: Path) -> Path:
    return torchscript(folder, _code(_wide()))


@case(REFUSED, "four such files")
def repeated_wide_letters(folder: Path) -> Path:
    return torchscript(folder, _code(*[_wide()] * 4))


# --- files in files -------------------------------------------------------------------------------


def _zip(records: int, root: bytes, data: bytes = _FOUR) -> bytes:
    """A torch archive in memory with so many records beside its own."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("m/data.pkl", PROTO + root + b".")
        archive.writestr("m/data/0", data)
        for number in range(records):
            archive.writestr(f"m/{number}", b"")
    return out.getvalue()


def packed_root(root: bytes) -> bytes:
    """A torch archive of this pickle and a storage of four numbers."""
    return _zip(0, root)


def packed(records: int) -> bytes:
    """A torch archive of one tensor of four numbers, and so many other records."""
    return _zip(records, tensor())


def _storage() -> bytes:
    kind = name("torch", "FloatStorage")
    return tuple_(text("storage"), kind, text("0"), text("cpu"), integer(4)) + b"Q"


def _nested(folder: Path, count: int, inner: bytes, copies: int = 1) -> Path:
    """A plain pickle of tensors whose storages are files in it: `copies` that take turns."""
    kept = [b"B" + struct.pack("<I", len(inner)) + inner + put(n) + b"0" for n in range(copies)]
    parts = [*kept, b"}("]
    load, rebuild = (
        name("torch.storage", "_load_from_bytes"),
        name("torch._utils", "_rebuild_tensor_v2"),
    )
    numbers = [tuple_(integer(4)), tuple_(integer(1))]
    for number in range(count):
        storage = call(load, get(number % copies))
        key = f"l{number // 2}.{ROLES[number % 2]}"
        tensor_ = call(rebuild, storage, integer(0), *numbers, b"\x89", HOOKS)
        parts.append(text(key) + tensor_)
    return file(folder, PROTO + b"".join(parts) + b"u.", "model.pkl")


@case(READ, "one torch file of 20,000 records in a pickle, in which 300 tensors sit")
def repeated_nested_file(folder: Path) -> Path:
    return _nested(folder, 300, _zip(20_000, _storage()))


@case(REFUSED, "forty torch files in a pickle, of 20,000 records each")
def repeated_nested_files(folder: Path) -> Path:
    return _nested(folder, 40, _zip(20_000, _storage()), copies=40)


@case(READ, "20,000 small torch files in a pickle")
def repeated_nested_small_files(folder: Path) -> Path:
    return _nested(folder, many(19_000), _zip(0, _storage()), copies=many(19_000))


# --- distributed checkpoints ----------------------------------------------------------------------


def chunks(folder: Path, count: int, inner: bytes, copies: int = 1) -> Path:
    """Mean and variance of one layer, each of so many chunks of four in one file."""
    (folder / "__0_0.distcp").write_bytes(inner * copies)
    properties = TensorProperties(dtype=torch.float32)
    pieces = [ChunkStorageMetadata(torch.Size([4 * n]), torch.Size([4])) for n in range(count)]
    whole = TensorStorageMetadata(properties, torch.Size([4 * count]), pieces)
    keys = [f"bn.{role}" for role in ROLES]
    places = {
        MetadataIndex(key, chunk.offsets): _StorageInfo(
            "__0_0.distcp", number % copies * len(inner), len(inner)
        )
        for key in keys
        for number, chunk in enumerate(pieces)
    }
    content = Metadata(dict.fromkeys(keys, whole), storage_data=places)
    (folder / ".metadata").write_bytes(pickle.dumps(content))
    return folder


add("repeated-chunks-of-records", ANY, "200 chunks that are one zip archive of 20,000 records",
    lambda folder: chunks(folder, 100, packed(20_000)))  # fmt: skip
add("repeated-chunks-of-many-archives", ANY, "200 chunks that are 100 archives of 20,000 records",
    lambda folder: chunks(folder, 100, packed(20_000), 100))  # fmt: skip
add("repeated-chunks", ANY, "2 x 20,000 chunks that are one archive",
    lambda folder: chunks(folder, many(20_000), packed(0)))  # fmt: skip
add("repeated-chunks-each-its-own", ANY, "2 x 20,000 chunks of 20,000 archives",
    lambda folder: chunks(folder, many(20_000), packed(0), many(20_000)))  # fmt: skip

# --- shards ---------------------------------------------------------------------------------------


def sharded(folder: Path, shards: int, write: Callable[[Path, int], object], ending: str) -> Path:
    places: dict[str, str] = {}
    for number in range(shards):
        shard = f"model-{number:05}.{ending}"
        write(folder / shard, number)
        places |= {f"l{number}.{role}": shard for role in ROLES}
    raw = json.dumps({"weight_map": places}).encode()
    return file(folder, raw, f"model.{ending}.index.json")


def safetensors_of(names: list[str], padding: int = 0) -> bytes:
    entries: dict[str, object] = {
        key: {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]}
        for n, key in enumerate(names)
    }
    raw = json.dumps(entries | {"__metadata__": {"x": "y" * padding}}).encode()
    return struct.pack("<Q", len(raw)) + raw + np.ones(len(names), np.float32).tobytes()


def of_layer(number: int) -> list[str]:
    return [f"l{number}.{role}" for role in ROLES]


def _linked(folder: Path, data: bytes, ending: str) -> Path:
    (folder / f"one.{ending}").write_bytes(data)

    def link(path: Path, number: int) -> None:
        path.symlink_to(f"one.{ending}")

    return sharded(folder, 40, link, ending)


@case(REFUSED, "40 shards that are links to one of 70,000 tensors")
def repeated_shard_links(folder: Path) -> Path:
    names = [key for number in range(many(35_000)) for key in of_layer(number)]
    return _linked(folder, safetensors_of(names), "safetensors")


@case(ANY, "40 shards that are links to one pickle of 60,000 tensors")
def repeated_pickle_links(folder: Path) -> Path:
    return _linked(folder, _zip(0, layers(30_000)), "bin")


@case(ANY, "40 shards of 70,000 tensors each")
def repeated_large_shards(folder: Path) -> Path:
    names = [key for number in range(35_000) for key in of_layer(number)]
    data = safetensors_of(names)
    return sharded(folder, 40, lambda path, number: path.write_bytes(data), "safetensors")


@case(ANY, "4,000 shards")
def repeated_shards(folder: Path) -> Path:
    return sharded(
        folder,
        many(4000),
        lambda path, n: path.write_bytes(safetensors_of(of_layer(n))),
        "safetensors",
    )


@case(ANY, "4,000 shards that are pickles")
def repeated_pickle_shards(folder: Path) -> Path:
    def write(path: Path, number: int) -> None:
        path.write_bytes(_zip(0, dict_(dict.fromkeys(of_layer(number), tensor()))))

    return sharded(folder, many(4000), write, "bin")


# --- protobuf -------------------------------------------------------------------------------------


def _onnx(folder: Path, field: int, packed: bool) -> Path:
    count = many(30_000_000)
    if packed:
        tensor_fields = varint(field << 3 | 2) + varint(count) + b"\1" * count
    else:
        tensor_fields = (varint(field << 3) + b"\1") * (count // 2)
    node = b"\x22\x12BatchNormalization"
    initializer = b"\x2a" + varint(len(tensor_fields)) + tensor_fields
    graph = b"\x0a" + varint(len(node)) + node + initializer
    return file(folder, b"\x08\x08\x3a" + varint(len(graph)) + graph, "model.onnx")


for _name, _field in (("dims", 1), ("int32", 5), ("int64", 7), ("uint64", 11)):
    add(f"repeated-varints-{_name}", ANY, f"ONNX with 30 MB of one-byte numbers in {_name}",
        partial(_onnx, field=_field, packed=True))  # fmt: skip
    add(f"repeated-varints-{_name}-unpacked", ANY, "the same, each in a field of its own",
        partial(_onnx, field=_field, packed=False))  # fmt: skip

# --- reports --------------------------------------------------------------------------------------


def _findings(folder: Path) -> Path:
    numbers = np.array([0.5, np.nan, 1, -1], np.float32).tobytes()
    return file(folder, _zip(0, layers(9_999), numbers))


def _many_findings(folder: Path) -> Path:
    """Each layer is a finding of as many rules as can be without one that hides the others."""
    numbers = np.array([1e-9, 1e6, 0, 1e-30], np.float32).tobytes()
    views = [tensor() + put(0), tensor((1,), offset=1) + put(1)]
    parts = (*ROLES, "weight", "bias")
    names = [text(f"l{n}.{part}") + get(0) for n in range(9_999) for part in parts]
    names += [text(f"l{n}.num_batches_tracked") + get(1) for n in range(9_999)]
    return file(folder, _zip(0, b"0".join(views) + b"0}(" + b"".join(names) + b"u", numbers))


for _format in ("text", "json", "markdown", "html", "sarif", "junit", "github", "gitlab"):
    for _kind, _build in (("one", _findings), ("many", _many_findings)):
        add(f"repeated-layers-{_kind}-{_format}", FOUND if _kind == "one" else ANY,
            f"9,999 layers as {_format}, {_kind} of whose findings is shown", _build,
            options=("--verbose", "--format", _format), long=True)  # fmt: skip


@case(REFUSED, "9,999 layers with evil names, of each of which seven rules say something")
def repeated_findings(folder: Path) -> Path:
    numbers = np.array([1e-9, 1e6, 0, 1e-30], np.float32).tobytes()
    views = [tensor() + put(0), tensor((1,), offset=1) + put(1)]
    parts = [*((role, 0) for role in (*ROLES, "weight", "bias")), ("num_batches_tracked", 1)]
    evil = "\u202e" * 120
    names = [text(f"{evil}{n}.{part}") + get(at) for n in range(many(9_999)) for part, at in parts]
    return file(folder, _zip(0, b"0".join(views) + b"0}(" + b"".join(names) + b"u", numbers))


# --- statistics -----------------------------------------------------------------------------------


def _over(folder: Path, numbers: int, layers: int, view: bytes) -> Path:
    """So many layers whose four tensors are one view of one storage."""
    parts = (*ROLES, "weight", "bias")
    names = [text(f"l{n}.{part}") + get(0) for n in range(layers) for part in parts]
    root = view + put(0) + b"0}(" + b"".join(names) + b"u"
    return file(folder, _zip(0, root, np.full(numbers, 0.5, np.float32).tobytes()))


@case(ANY, "as many numbers as are judged, of one storage")
def repeated_statistics(folder: Path) -> Path:
    count = many(500_000)
    return _over(folder, count, 4, tensor((count,), elements=count))


@case(REFUSED, "4,000 statistics that are spread over one storage of 60 MB")
def repeated_spread(folder: Path) -> Path:
    count = many(15_000_000)
    return _over(folder, count, 1000, tensor((1000,), (count // 1000 - 1,), elements=count))


@case(FOUND, "four parts of 9,999 broken layers each")
def repeated_broken_parts(folder: Path) -> Path:
    numbers = np.array([0.5, np.nan, 1, -1], np.float32).tobytes()
    part = [text(f"l{n}.{role}") + get(0) for n in range(many(9_999)) for role in ROLES]
    parts = [text(f"part{n}") + b"}(" + b"".join(part) + b"u" for n in range(4)]
    root = tensor() + put(0) + b"0}(" + b"".join(parts) + b"u"
    return file(folder, _zip(0, root, numbers))
