"""safetensors files."""

from __future__ import annotations

from typing import Any, Final

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_SAFETENSORS_HEADER_BYTES
from bncheck.core.words import shortened
from bncheck.reading.checkpoint import Subtree
from bncheck.reading.dtypes import item_size, unknown_dtype
from bncheck.reading.json_text import parse
from bncheck.reading.record_snapshot import subtrees_of_snapshot
from bncheck.reading.source import Source
from bncheck.reading.tensors import (
    LazyTensor,
    LoadedTensor,
    Storage,
    StridedTensor,
    row_major,
)

#: safetensors' own limit on its header.
_LONGEST_HEADER: Final = 100_000_000
#: What a tensor takes in memory, and bytes of the header for each operation.
_TENSOR_BYTES: Final = 400
_TEXT_AN_OPERATION: Final = 64

#: The key of what `fold` says, in the metadata, of a state dict that it folded.
FOLDED: Final = "bncheck.fold"

DTYPES: Final = {
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


def read_safetensors(source: Source) -> list[Subtree]:
    """All tensors of one file.

    safetensors' own reader judges the header (overlaps, holes, overflows, duplicates, trailing
    bytes); the numbers are then read from where the header says, in every dtype it knows.
    """
    from safetensors import SafetensorError, safe_open

    length = int.from_bytes(source.read(0, 8), "little")
    if length > MAX_SAFETENSORS_HEADER_BYTES:
        raise BncheckError(
            f"has a header of {length:,} bytes (limit MAX_SAFETENSORS_HEADER_BYTES)",
            "check where it comes from",
        )
    text = source.read(8, min(length, source.size - 8))
    source.budget.operations.take(len(text) // _TEXT_AN_OPERATION)
    try:
        with source.on_disk(8 + length) as path, safe_open(path, framework="numpy") as opened:
            names = set(opened.keys())
        header = parse(text, source.budget)
        entries = {name: header[name] for name in header if name in names}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise BncheckError(
            f"is a damaged safetensors file ({shortened(str(error), 80)})",
            "download or copy it again",
        ) from None
    source.budget.tensors.take(len(entries))
    source.budget.held.take(len(entries) * _TENSOR_BYTES)
    data = Storage(source.window(8 + length, source.size - 8 - length))
    tensors = {name: _tensor(data, entry) for name, entry in entries.items()}
    metadata = header.get("__metadata__")
    snapshot = subtrees_of_snapshot(tensors, metadata, source.budget)
    folded = isinstance(metadata, dict) and FOLDED in metadata
    return snapshot or [Subtree("", tensors, aliases=_aliases(metadata, names), folded=folded)]


def _aliases(metadata: object, names: set[str]) -> dict[str, str]:
    """Other names of tensors: `save_model` keeps those that it leaves out as metadata."""
    if not isinstance(metadata, dict):
        return {}
    return {
        alias: name
        for alias, name in metadata.items()
        if isinstance(alias, str) and isinstance(name, str) and name in names and alias not in names
    }


def _tensor(data: Storage, entry: dict[str, Any]) -> LazyTensor:
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:  # F4, F6_E2M3...: sub-byte floats
        return LoadedTensor(lambda: unknown_dtype(entry["dtype"]))
    shape = tuple(entry["shape"])
    strides = row_major(shape)
    start, end = entry["data_offsets"]
    place, beyond = divmod(start, item_size(dtype))
    if not beyond:  # as what is aligned, which nearly all are
        return StridedTensor(data, dtype, shape, strides, place)
    return StridedTensor(data.part(start, end - start, 1), dtype, shape, strides)
