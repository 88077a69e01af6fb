"""Folders of torch.distributed.checkpoint: a pickled `.metadata` and `__0_0.distcp` files.

The metadata names every tensor's chunks, and for each chunk the file, offset and length where a
small torch file holds it: torch/distributed/checkpoint/metadata.py, filesystem.py. torch unpickles
`.metadata` for real; here it is only read.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError, quoted
from bncheck.core.limits import MAX_DEPTH, MAX_PICKLE_BYTES, MAX_TENSORS
from bncheck.reading import inert
from bncheck.reading.checkpoint import Subtree
from bncheck.reading.dtypes import dtype_name
from bncheck.reading.pickle_values import DICT, Global, Node, Value
from bncheck.reading.referred import referred, relative
from bncheck.reading.source import Source
from bncheck.reading.tensors import (
    LazyTensor,
    LoadedTensor,
    StoredPart,
    StridedTensor,
    checked_shape,
)
from bncheck.reading.torch_files import read_zip
from bncheck.reading.zip_archive import ZipArchive

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

METADATA: Final = ".metadata"
_CHUNK_OPERATIONS: Final = 20
_SIZE: Final = {Global("torch", "Size")}
#: What stands in state_dict_metadata: a tensor, or any other object in a pickle of its own.
_ENTRIES: Final = ("TensorStorageMetadata", "BytesStorageMetadata")


def _malformed() -> BncheckError:
    return BncheckError("has a malformed .metadata", "save the checkpoint again")


def _contradiction(key: str, what: str) -> BncheckError:
    return BncheckError(
        f"has a .metadata that contradicts itself: {quoted(key)} {what}",
        "do not trust it; save the checkpoint again",
    )


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Where one piece of a tensor lies in the tensor, and in which file."""

    place: tuple[slice, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class _Described:
    """A tensor as `.metadata` describes it."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    chunks: list[_Chunk]


class _Archives:
    """The torch files in the folder's files, each opened and parsed once."""

    def __init__(self, folder: Path, budget: Budget) -> None:
        self._folder = folder
        self._budget = budget
        self._files: dict[str, Source] = {}
        self._parsed: dict[tuple[str, int, int], tuple[Source, LazyTensor | None]] = {}

    def tensor(self, chunk: _Chunk) -> tuple[Source, LazyTensor | None]:
        """Where the torch file of a chunk lies, and its tensor."""
        self._budget.operations.take(_CHUNK_OPERATIONS)
        place = (chunk.file, chunk.start, chunk.length)
        if place not in self._parsed:
            try:
                self._parsed[place] = self._read(*place)
            except BncheckError as error:
                raise error.about(chunk.file) from None
        return self._parsed[place]

    def _read(self, file: str, start: int, length: int) -> tuple[Source, LazyTensor | None]:
        if file not in self._files:
            self._files[file] = Source.open(referred(self._folder, file), self._budget)
        archive = self._files[file].window(start, length)
        pickled = read_zip(ZipArchive(archive))
        return archive, pickled.objects.tensor(pickled.root)


def read_distributed(folder: Path, budget: Budget) -> list[Subtree]:
    """One subtree for each branch of the saved state (`model`, `optimizer.state.0`...)."""
    source = Source.open(referred(folder, METADATA), budget)
    if source.size > MAX_PICKLE_BYTES:
        raise BncheckError(
            f"has a .metadata of {source.size:,} bytes (limit MAX_PICKLE_BYTES)", "save it again"
        )
    metadata = inert.load(io.BytesIO(source.read(0, source.size)), budget)
    try:
        return _subtrees(_Archives(folder, budget), _fields(metadata))
    except (KeyError, TypeError, ValueError, IndexError):
        raise _malformed() from None


def _subtrees(archives: _Archives, metadata: Mapping[str, Value]) -> list[Subtree]:
    places = _storage_places(metadata["storage_data"])
    entries = _unique(metadata["state_dict_metadata"])
    if len(entries) > MAX_TENSORS:
        raise BncheckError(
            f"names more than {MAX_TENSORS:,} tensors (limit MAX_TENSORS)", "split the model"
        )
    branches: dict[str, dict[str, LazyTensor]] = {}
    for key, (branch, name) in _names(entries, metadata.get("planner_data")).items():
        if _kind(entries[key]) == "BytesStorageMetadata":
            continue
        tensor = _described(key, entries[key], places)
        branches.setdefault(branch, {})[name] = LoadedTensor(
            partial(_assemble, archives, tensor),
            tensor.shape,
            partial(_parts, archives, tensor),
        )
    return [Subtree(branch, found) for branch, found in branches.items()]


def _unique(value: Value) -> dict[str, Value]:
    """A dict whose keys are texts, none of them twice: of those torch takes the last."""
    if not isinstance(value, Node) or not value.is_call_of({DICT}) or value.args:
        raise TypeError
    found: dict[str, Value] = {}
    for key, item in value.entries:
        if not isinstance(key, str):
            raise TypeError
        if key in found:
            raise _contradiction(key, "is in it twice")
        found[key] = item
    return found


def _fields(value: Value) -> dict[str, Value]:
    """The `__dict__` of a dataclass, which a pickle sets in one piece and once."""
    if not isinstance(value, Node) or value.args or value.entries or value.items:
        raise TypeError
    return _unique(value.state)


def _kind(entry: Value) -> str:
    function = entry.function if isinstance(entry, Node) else None
    if not isinstance(function, Global) or function.name not in _ENTRIES:
        raise TypeError
    return function.name


def _names(entries: Mapping[str, Value], planner: Value) -> dict[str, tuple[str, str]]:
    """Where each key is in the saved state: (branch, name).

    `model.bn.weight` saved from ("model", "bn.weight") is the tensor bn.weight of `model`.
    dcp.load looks for the key, dcp_to_torch_save follows the path: they must lead to one place.
    """
    paths = {} if planner is None else _unique(planner)
    found = {}
    for key in entries:
        path = paths.get(key, (key,))
        if not isinstance(path, tuple) or not all(isinstance(p, (str, int)) for p in path):
            raise TypeError
        if key.count(".") > MAX_DEPTH:
            raise _malformed()
        if ".".join(map(str, path)) != key:
            raise _contradiction(key, "has another name in planner_data")
        found[key] = (".".join(map(str, path[:-1])), str(path[-1]))
    _refuse_nesting(found)
    return found


def _refuse_nesting(names: Mapping[str, tuple[str, str]]) -> None:
    """Refuse `a.b.c` of branch `a` beside a branch `a.b`: loaders look for it in either."""
    tree: dict[str | None, Any] = {}
    for branch in {branch for branch, _ in names.values() if branch}:
        node = tree
        for part in branch.split("."):
            node = node.setdefault(part, {})
        node[None] = {}  # here a branch ends
    for key, (branch, _) in names.items():
        node, depth = tree, branch.count(".") + 1 if branch else 0
        for at, part in enumerate(key.split("."), 1):
            node = node.get(part, {})
            if None in node and at > depth:
                raise _contradiction(key, "belongs to one part of the state by its name, and "
                                          "to another by planner_data")  # fmt: skip


def _described(key: str, entry: Value, places: dict[str, tuple[str, int, int]]) -> _Described:
    fields = _fields(entry)
    properties = fields["properties"]
    state = properties.state if isinstance(properties, Node) else None
    if not isinstance(state, tuple) or not isinstance(state[0], Global):
        raise TypeError
    shape, found = _sizes(fields["size"]), []
    if not isinstance(fields["chunks"], list):
        raise TypeError
    for chunk in map(_fields, fields["chunks"]):
        offsets, sizes = _sizes(chunk["offsets"]), _sizes(chunk["sizes"])
        if not len(offsets) == len(sizes) == len(shape):
            raise _malformed()
        if any(o + n > whole for o, n, whole in zip(offsets, sizes, shape, strict=True)):
            raise _contradiction(key, "has a chunk that ends outside it")
        place = tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))
        found.append(_Chunk(place, sizes, *places[_place(key, offsets)]))
    return _Described(key, state[0].name, shape, found)


def _place(name: str, offsets: tuple[int, ...]) -> str:
    """A key of text: integers from a file could all have one hash."""
    return f"{name}\0{offsets}"


def _storage_places(storage_data: Value) -> dict[str, tuple[str, int, int]]:
    """`_place(tensor name, chunk offsets)` -> (file, offset, length)."""
    if not isinstance(storage_data, Node) or not storage_data.is_call_of({DICT}):
        raise TypeError
    places: dict[str, tuple[str, int, int]] = {}
    for index, info in storage_data.entries:
        key, place = _fields(index), _fields(info)
        name, file = key["fqn"], place["relative_path"]
        start, length = place["offset"], place["length"]
        if not isinstance(name, str) or not isinstance(file, str):
            raise TypeError
        if not isinstance(start, int) or not isinstance(length, int):
            raise TypeError
        if key.get("offset") is None:  # no tensor, but an object
            continue
        where = _place(name, _sizes(key["offset"]))
        if where in places:
            raise _contradiction(name, "is stored in two places")
        if place.get("transform_descriptors"):
            raise BncheckError(
                f"keeps {quoted(name)} compressed or encrypted by an extension",
                "load it with that extension and save it without",
            )
        places[where] = (str(relative(file)), start, length)
    return places


def _sizes(value: Value) -> tuple[int, ...]:
    if isinstance(value, Node) and value.is_call_of(_SIZE):
        value = value.args[0]
    if not isinstance(value, (tuple, list)) or not all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value
    ):
        raise TypeError
    return checked_shape(tuple(n for n in value if isinstance(n, int)))


def _assemble(archives: _Archives, tensor: _Described) -> Array:
    """The chunks in their places; what they leave open, torch leaves uninitialised."""
    import numpy as np

    if sum(math.prod(chunk.sizes) for chunk in tensor.chunks) != math.prod(tensor.shape):
        raise _contradiction(tensor.key, "is not the sum of its chunks")
    whole: Array | None = None
    for chunk in tensor.chunks:
        piece = _part(archives, tensor, chunk).tensor.read()
        if len(tensor.chunks) == 1:
            return piece
        if whole is None:
            whole, filled = np.empty(tensor.shape, piece.dtype), np.zeros(tensor.shape, bool)
        if filled[chunk.place].any() or whole.dtype != piece.dtype:
            raise _contradiction(tensor.key, "has chunks that overlap or differ in kind")
        filled[chunk.place], whole[chunk.place] = True, piece
    if whole is None:
        raise _malformed()
    return whole


def _parts(archives: _Archives, tensor: _Described) -> list[StoredPart]:
    return [_part(archives, tensor, chunk) for chunk in tensor.chunks]


def _part(archives: _Archives, whole: _Described, chunk: _Chunk) -> StoredPart:
    archive, tensor = archives.tensor(chunk)
    if tensor is None or tensor.shape != chunk.sizes:
        raise _contradiction(whole.key, "has a chunk of another shape")
    if isinstance(tensor, StridedTensor) and tensor.dtype != dtype_name(whole.dtype):
        raise _contradiction(
            whole.key, f"is declared as {whole.dtype} and stored as {tensor.dtype}"
        )
    return StoredPart(chunk.place, tensor, archive)
