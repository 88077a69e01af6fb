"""Folders of torch.distributed.checkpoint: a pickled `.metadata` and `__0_0.distcp` files.

The metadata names every tensor's chunks, and for each chunk the file, offset and length where a
small torch file holds it: torch/distributed/checkpoint/metadata.py, filesystem.py. torch unpickles
`.metadata` for real; here it is only read.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_PICKLE_BYTES, MAX_TENSORS
from bncheck.reading import inert
from bncheck.reading.checkpoint import Subtree
from bncheck.reading.pickle_values import Global, Node, Value
from bncheck.reading.source import Source
from bncheck.reading.tensors import LazyTensor, LoadedTensor, Part, checked_shape
from bncheck.reading.torch_files import read_zip
from bncheck.reading.torch_objects import attributes, entries
from bncheck.reading.zip_archive import ZipArchive

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

METADATA: Final = ".metadata"
_SIZE: Final = {Global("torch", "Size")}


def _malformed() -> BncheckError:
    return BncheckError("has a malformed .metadata", "save the checkpoint again")


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Where one piece of a tensor lies in the tensor, and in which file."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int


def read_distributed(folder: Path) -> list[Subtree]:
    """One subtree for each branch of the saved state (`model`, `optimizer.state.0`...)."""
    source = Source.open(folder / METADATA)
    if source.size > MAX_PICKLE_BYTES:
        raise BncheckError(
            f"has a .metadata of {source.size:,} bytes (limit MAX_PICKLE_BYTES)", "save it again"
        )
    metadata = attributes(inert.load(io.BytesIO(source.read(0, source.size))))
    try:
        return _subtrees(folder, metadata)
    except (KeyError, TypeError, ValueError, IndexError):
        raise _malformed() from None


def _subtrees(folder: Path, metadata: Mapping[str, Value]) -> list[Subtree]:
    places = _storage_places(metadata["storage_data"])
    paths = _text_keyed(entries(metadata.get("planner_data")))
    branches: dict[str, dict[str, LazyTensor]] = {}
    files: dict[str, Source] = {}
    tensors = entries(metadata["state_dict_metadata"]) or []
    if len(tensors) > MAX_TENSORS:
        raise BncheckError(
            f"names more than {MAX_TENSORS:,} tensors (limit MAX_TENSORS)", "split the model"
        )
    for key, entry in tensors:
        if not isinstance(key, str) or not _is_tensor(entry):
            continue
        shape, chunks = _chunks(key, entry, places)
        branch, name = _split(key, paths.get(key))
        branches.setdefault(branch, {})[name] = LoadedTensor(
            partial(_assemble, folder, files, shape, chunks),
            shape,
            partial(_parts, folder, files, chunks),
        )
    return [Subtree(branch, found) for branch, found in branches.items()]


def _text_keyed(pairs: Sequence[tuple[Value, Value]] | None) -> dict[str, Value]:
    return {key: value for key, value in pairs or [] if isinstance(key, str)}


def _is_tensor(entry: Value) -> bool:
    function = entry.function if isinstance(entry, Node) else None
    return isinstance(function, Global) and function.name == "TensorStorageMetadata"


def _split(key: str, path: Value) -> tuple[str, str]:
    """`model.bn.weight` saved from ("model", "bn.weight") is the tensor bn.weight of `model`."""
    if not isinstance(path, tuple) or not path or not all(isinstance(p, (str, int)) for p in path):
        return "", key
    *branch, name = map(str, path)
    return ".".join(branch), name


def _chunks(
    key: str, entry: Value, places: dict[str, tuple[str, int, int]]
) -> tuple[tuple[int, ...], list[_Chunk]]:
    fields = attributes(entry)
    found = []
    chunks = fields["chunks"]
    if not isinstance(chunks, list):
        raise TypeError
    for chunk in chunks:
        inner = attributes(chunk)
        offsets, sizes = _sizes(inner["offsets"]), _sizes(inner["sizes"])
        found.append(_Chunk(offsets, sizes, *places[_place(key, offsets)]))
    return _sizes(fields["size"]), found


def _place(name: str, offsets: tuple[int, ...]) -> str:
    """A key of text: integers from a file could all have one hash."""
    return f"{name}\0{offsets}"


def _storage_places(
    storage_data: Value,
) -> dict[str, tuple[str, int, int]]:
    """`_place(tensor name, chunk offsets)` -> (file, offset, length)."""
    places = {}
    for index, info in entries(storage_data) or []:
        key, place = attributes(index), attributes(info)
        name, file = key["fqn"], place["relative_path"]
        start, length = place["offset"], place["length"]
        if not isinstance(name, str) or not isinstance(file, str):
            raise TypeError
        if not isinstance(start, int) or not isinstance(length, int):
            raise TypeError
        offsets = () if key.get("offset") is None else _sizes(key["offset"])
        if not place.get("transform_descriptors"):
            places[_place(name, offsets)] = (_inside(file), start, length)
    return places


def _inside(file: str) -> str:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or "\\" in file or "\0" in file or not path.parts:
        raise BncheckError(
            f"names a file {file[:60]!r} outside its own folder",
            "do not trust it; get the checkpoint again",
        )
    return file


def _sizes(value: Value) -> tuple[int, ...]:
    if isinstance(value, Node) and value.is_call_of(_SIZE):
        value = value.args[0]
    if not isinstance(value, (tuple, list)) or not all(
        isinstance(n, int) and n >= 0 for n in value
    ):
        raise TypeError
    return checked_shape(tuple(n for n in value if isinstance(n, int)))


def _assemble(
    folder: Path, files: dict[str, Source], shape: tuple[int, ...], chunks: list[_Chunk]
) -> Array:
    import numpy as np

    if sum(math.prod(chunk.sizes) for chunk in chunks) != math.prod(shape):
        raise _malformed()
    if len(chunks) == 1:
        return _read_chunk(folder, files, chunks[0])
    whole: Array | None = None
    for chunk in chunks:
        piece = _read_chunk(folder, files, chunk)
        if whole is None:
            whole = np.zeros(shape, piece.dtype)
        place = tuple(slice(o, o + n) for o, n in zip(chunk.offsets, chunk.sizes, strict=False))
        if len(place) != len(shape) or whole[place].shape != piece.shape:
            raise _malformed()
        whole[place] = piece
    if whole is None:
        raise _malformed()
    return whole


def _parts(folder: Path, files: dict[str, Source], chunks: list[_Chunk]) -> list[Part]:
    return [_part(folder, files, chunk) for chunk in chunks]


def _part(folder: Path, files: dict[str, Source], chunk: _Chunk) -> Part:
    try:
        if chunk.file not in files:
            files[chunk.file] = Source.open(folder / chunk.file)
        archive = files[chunk.file].window(chunk.start, chunk.length)
        pickled = read_zip(ZipArchive(archive))
    except BncheckError as error:
        raise error.about(chunk.file) from None
    tensor = pickled.objects.tensor(pickled.root)
    if tensor is None or tensor.shape != chunk.sizes or len(chunk.offsets) != len(chunk.sizes):
        raise _malformed()
    place = tuple(slice(o, o + n) for o, n in zip(chunk.offsets, chunk.sizes, strict=True))
    return Part(place, tensor, archive)


def _read_chunk(folder: Path, files: dict[str, Source], chunk: _Chunk) -> Array:
    return _part(folder, files, chunk).tensor.read()
