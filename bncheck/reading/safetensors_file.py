"""safetensors files, sharded ones, and folders as the Hugging Face hub lays them out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_SAFETENSORS_HEADER_BYTES, MAX_TENSORS, MAX_TEXT_RECORD_BYTES
from bncheck.reading.checkpoint import Subtree
from bncheck.reading.json_text import parse
from bncheck.reading.source import Source
from bncheck.reading.tensors import (
    LazyTensor,
    LoadedTensor,
    Part,
    Storage,
    StridedTensor,
    checked_shape,
    unknown_dtype,
)

T = TypeVar("T")

#: safetensors' own limit on its header.
_LONGEST_HEADER: Final = 100_000_000

_DTYPES: Final = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}


def looks_like_safetensors(source: Source) -> bool:
    """An unsigned 64-bit header length of at most 100 MB, then a JSON object."""
    head = source.head(9)
    return (
        len(head) == 9
        and head[8:] == b"{"
        and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER
    )


def read_safetensors(source: Source, path: Path) -> list[Subtree]:
    """All tensors of one file.

    safetensors' own reader judges the header (overlaps, holes, overflows, duplicates, trailing
    bytes); the numbers are then read from where the header says, in every dtype it knows.
    """
    from safetensors import SafetensorError, safe_open

    length = int.from_bytes(source.read(0, 8), "little")
    if length > MAX_SAFETENSORS_HEADER_BYTES:
        raise BncheckError(
            f"has a header of {length:,} bytes (limit MAX_SAFETENSORS_HEADER_BYTES)",
            "check where it is from",
        )
    text = source.read(8, min(length, source.size - 8))
    source.budget.operations.take(len(text) // _TEXT_AN_OPERATION)
    try:
        with safe_open(path, framework="numpy") as opened:
            names = set(opened.keys())
        header = parse(text, source.budget)
        entries = {name: header[name] for name in header if name in names}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise BncheckError(
            f"is a damaged safetensors file ({str(error)[:80]})", "download or copy it again"
        ) from None
    source.budget.tensors.take(len(entries))
    source.budget.held.take(len(entries) * _TENSOR_BYTES)
    data = Storage(source.window(8 + length, source.size - 8 - length))
    return [Subtree("", {name: _tensor(data, entry) for name, entry in entries.items()})]


def _tensor(data: Storage, entry: dict[str, Any]) -> LazyTensor:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:  # F4, F6_E2M3...: sub-byte floats
        return LoadedTensor(lambda: unknown_dtype(entry["dtype"]))
    shape = checked_shape(tuple(entry["shape"]))
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    start, end = entry["data_offsets"]
    return StridedTensor(data.part(start, end - start, 1), dtype, shape, strides)


def read_index(path: Path, read_shard: Callable[[Path], Mapping[str, LazyTensor]]) -> list[Subtree]:
    """The tensors that a `*.index.json` distributes over shards beside it, opened on demand."""
    shards = _shards(path)
    opened: dict[str, Mapping[str, LazyTensor]] = {}

    def find(name: str) -> LazyTensor:
        shard = shards[name]
        if shard not in opened:
            opened[shard] = read_shard(path.parent / shard)
        return opened[shard][name]

    def using(name: str, use: Callable[[LazyTensor], T]) -> T:
        shard = shards[name]
        try:
            return use(find(name))
        except KeyError:
            raise BncheckError(f"has no tensor {name[:60]!r}", "download it again", shard) from None
        except BncheckError as error:
            raise error.about(shard) from None

    def tensor(name: str) -> LazyTensor:
        load = partial(using, name, lambda tensor: tensor.read())
        return LoadedTensor(load, parts=partial(using, name, lambda tensor: [Part((), tensor)]))

    return [Subtree("", {name: tensor(name) for name in shards})]


def unlisted(path: Path, read_shard: Callable[[Path], Mapping[str, LazyTensor]]) -> list[str]:
    """Tensors in the shards of an index that the index does not give to that shard.

    Loaders that take whole shards load them, too, maybe over others of the same name. Shards that
    cannot be read, and those beyond MAX_TENSORS tensors, are left out.
    """
    shards = _shards(path)
    found, seen = [], 0
    for shard in dict.fromkeys(shards.values()):
        try:
            names = list(read_shard(path.parent / shard))
        except BncheckError:  # an error where the tensors are needed, and there alone
            continue
        found += [name for name in names if shards.get(name) != shard]
        seen += len(names)
        if seen > MAX_TENSORS:
            break
    return found


def shard_names(path: Path) -> list[str]:
    """The files that an index names, each once, all of them present beside it."""
    return list(dict.fromkeys(_shards(path).values()))


def _shards(path: Path) -> dict[str, str]:
    source = Source.open(path)
    if source.size > MAX_TEXT_RECORD_BYTES:
        raise BncheckError(
            "is too long for an index of shards (limit MAX_TEXT_RECORD_BYTES)", "check the path"
        )
    try:
        index = parse(source.head(source.size).decode())
        weight_map = dict(index["weight_map"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BncheckError(
            "is JSON, but no index of shards (it has no weight_map)",
            "give bncheck the checkpoint or the *.index.json beside its shards",
        ) from None
    if len(weight_map) > MAX_TENSORS:
        raise BncheckError(
            f"names more than {MAX_TENSORS:,} tensors (limit MAX_TENSORS)", "split the model"
        )
    for shard in set(map(str, weight_map.values())):
        # A bare name and nothing else: an index must not reach outside its folder.
        if shard != Path(shard).name or shard in ("", ".", "..") or "\\" in shard or "\0" in shard:
            raise BncheckError(
                f"names a shard {shard[:60]!r} outside its own folder",
                "do not trust it; download the model again",
            )
        file = path.parent / shard
        if not os.path.isfile(file):  # unlike is_file, False for any name
            raise BncheckError(
                f"names a shard {shard[:60]!r} that is not there", "download the missing shard"
            )
        # As in the Hugging Face cache, index and shard may be links into one other folder.
        if file.resolve().parent not in (path.parent.resolve(), path.resolve().parent):
            raise BncheckError(
                f"names a shard {shard[:60]!r} that is a link out of its folder",
                "copy the shard beside the index",
            )
    return {str(name): str(shard) for name, shard in weight_map.items()}
