"""Tensors that lie in the same bytes: torch saves a storage once, whatever shares it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from bncheck.core.errors import BncheckError
from bncheck.reading.checkpoint import Checkpoint
from bncheck.reading.dtypes import item_size
from bncheck.reading.source import SourceFile
from bncheck.reading.tensors import LazyTensor, LoadedTensor, StoredPart, StridedTensor

#: File, first byte, byte behind the last, and what makes two views of these bytes the same tensor.
Place: TypeAlias = "tuple[Path, int, int, object]"


def aliases(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, str]:
    """Other names of these tensors in the same part: a module that is registered twice."""
    lazy = checkpoint.tensors.lazy
    known = {place: name for name in names for place in places(lazy[name])}
    found = {}
    for name, tensor in lazy.items():
        for place in places(tensor):
            if place in known and known[place] != name:
                found[name] = known[place]
    return found


def shared_elsewhere(checkpoint: Checkpoint, names: Iterable[str]) -> list[str]:
    """Tensors of the other parts of the file that change with these of the chosen one."""
    lazy = checkpoint.tensors.lazy
    changed = [place for name in names for place in places(lazy[name])]
    asked = f"{checkpoint.key}." if checkpoint.key else ""
    found = []
    for tree in checkpoint.alternatives:
        for name, tensor in _full_names(tree.path, tree.tensors):
            inside = bool(asked) and name.startswith(asked)  # a part of what holds the chosen one
            if not inside and any(_meet(a, b) for a in places(tensor) for b in changed):
                found.append(name)
    return found


def parts_of(tensor: LazyTensor) -> list[StoredPart]:
    """The pieces of a tensor that lie in files as they are."""
    if isinstance(tensor, LoadedTensor) and tensor.parts is not None:
        return tensor.parts()
    return [StoredPart((), tensor)]


def places(tensor: LazyTensor) -> Iterator[Place]:
    """Where in which files a tensor lies; nothing for one that lies in none as it is."""
    try:
        parts = parts_of(tensor)
    except BncheckError:  # it cannot be read, and is not touched
        return
    for view in (part.tensor for part in parts):
        if isinstance(view, StridedTensor) and view.elements:
            file = view.storage.source.file
            if isinstance(file, SourceFile):
                size = item_size(view.dtype)
                start = view.storage.source.start + view.offset * size
                steps = zip(view.shape, view.strides, strict=True)
                end = start + (sum((n - 1) * s for n, s in steps) + 1) * size
                yield file.path, start, end, (view.dtype, view.shape, view.strides)


def _full_names(path: str, tensors: Mapping[str, LazyTensor]) -> Iterator[tuple[str, LazyTensor]]:
    for name, tensor in tensors.items():
        yield f"{path}.{name}" if path else name, tensor


def _meet(a: Place, b: Place) -> bool:
    return a[0] == b[0] and a[1] < b[2] and b[1] < a[2]
