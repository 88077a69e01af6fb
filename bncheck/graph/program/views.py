"""Calls that move numbers about, as the planner sees them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from bncheck.graph.dataflow import (
    Concat,
    Expand,
    Identity,
    PixelShuffle,
    Reshape,
    ShapeOf,
    Split,
    Transpose,
)
from bncheck.graph.program.calls import (
    Arguments,
    Described,
    rank_of,
    sizes_of,
)

_FLOATING = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_IDENTITIES = {
    "alias", "clone", "contiguous", "detach", "detach_", "lift_fresh", "lift_fresh_copy",
    "positive",
}  # fmt: skip
_DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
_RESHAPES = {
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view", "view_copy",
    "_reshape_copy", "squeeze_copy", "unsqueeze_copy", "ravel", "view_as", "reshape_as",
}  # fmt: skip
_SHAPE_ONLY = {
    "sym_size", "sym_numel", "sym_stride", "_assert_tensor_metadata", "numel", "dim",
    "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full",
}  # fmt: skip
#: Of their second argument, only the shape or the dtype counts.
LIKE = {"view_as", "reshape_as", "expand_as", "type_as"}


def views(node: Node, name: str, a: Arguments) -> Described | None:
    """The same numbers elsewhere, or in another shape."""
    source = node.args[0] if node.args else None
    rank = rank_of(source)
    if name in _SHAPE_ONLY:
        return ShapeOf(), (source,)
    if name in _IDENTITIES or (name in _DROPOUTS and a("train") is False):
        return Identity(), (source,)
    if name == "native_dropout" and a("train") is False:
        return Identity(), (source,)
    if name in ("to", "_to_copy", "type_as", "_to_dtype"):
        return _conversion(node, source)
    if name in _RESHAPES:
        return Reshape(), (source,)
    if name in ("permute", "permute_copy"):
        return Transpose(tuple(int(d) % rank for d in a("dims"))), (source,)
    if name in ("transpose", "swapaxes", "swapdims", "t", "transpose_copy", "t_copy", "numpy_T",
                "mT"):  # fmt: skip
        if rank < 2:
            return Identity(), (source,)
        if name == "numpy_T":
            return Transpose(tuple(range(rank))[::-1]), (source,)
        given: tuple[Any, ...] = (-1, -2) if name == "mT" else (*node.args[1:3], 0, 1)
        pair = [int(d) % rank for d in given[:2]]
        order = list(range(rank))
        order[pair[0]], order[pair[1]] = pair[1], pair[0]
        return Transpose(tuple(order)), (source,)
    if name == "movedim":
        return _moved(node, a, rank)
    if name in ("expand", "expand_copy", "broadcast_to", "expand_as"):
        return Expand(), (source,)
    if name in ("pixel_shuffle", "pixel_unshuffle") and rank == 4:
        factor = int(a.first("upscale_factor", "downscale_factor"))
        return PixelShuffle(factor, name == "pixel_unshuffle"), (source,)
    return None


def _conversion(node: Node, source: Any) -> Described | None:
    """A cast between floating dtypes keeps the map; any other does not."""
    dtypes = [n.meta["val"].dtype for n in (node, source)]
    return (Identity(), (source,)) if set(dtypes) <= _FLOATING else None


def _moved(node: Node, a: Arguments, rank: int) -> Described | None:
    """numpy.moveaxis' rule."""
    source = [int(d) % rank for d in sizes_of(node.args[1], 1)]
    target = [int(d) % rank for d in sizes_of(node.args[2], 1)]
    order = [i for i in range(rank) if i not in source]
    for place, axis in sorted(zip(target, source, strict=True)):
        order.insert(place, axis)
    return Transpose(tuple(order)), (node.args[0],)


def joins(node: Node, name: str, a: Arguments) -> Described | None:
    """Parts put together, and wholes cut into parts."""
    if name in ("cat", "concat", "concatenate"):
        parts = node.args[0]
        assert isinstance(parts, Sequence)
        if len({rank_of(part) for part in parts}) != 1:  # torch.cat skips empty 1-D tensors
            return None
        return Concat(int(a("dim", 0)) % rank_of(parts[0])), tuple(parts)
    if name == "stack":
        parts = node.args[0]
        assert isinstance(parts, Sequence)
        return Concat(int(a("dim", 0)) % (rank_of(parts[0]) + 1), stacks=True), tuple(parts)
    source = node.args[0] if node.args else None
    rank = rank_of(source)
    if not rank:
        return None
    axis = int(a("dim", 0) or 0) % rank if isinstance(a("dim", 0), int) else 0
    if name in ("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "split_copy",
                "unsafe_split", "unsafe_split_with_sizes", "split_with_sizes_copy"):  # fmt: skip
        return _split(node, source, axis)
    if name == "unbind":
        number = len(node.meta["val"])
        return Split(axis, tuple(slice(i, i + 1) for i in range(number)), drops=True), (source,)
    if name in ("slice", "slice_copy", "narrow"):
        return _slice(a, name, source, axis)
    if name in ("select", "select_copy") and isinstance(a("index"), int):
        part = slice(a("index"), a("index") + 1 or None)
        return Split(axis, (part,), drops=True), (source,)
    return None


def _split(node: Node, source: Any, axis: int) -> Described | None:
    """Where the parts lie is read off the results."""
    sizes = [part.shape[axis] for part in node.meta["val"]]
    if not all(isinstance(size, int) for size in sizes):
        return None
    ends = np.cumsum([0, *sizes])
    pairs = itertools.pairwise(ends)
    return Split(axis, tuple(slice(int(i), int(j)) for i, j in pairs)), (source,)


def _slice(a: Arguments, name: str, source: Any, axis: int) -> Described | None:
    start, end, step = a("start"), a("end"), a("step", 1)
    if name == "narrow" and isinstance(start, int) and isinstance(a("length"), int):
        end, step = start + a("length"), 1
    bounds = (start, end, step)
    if not all(item is None or isinstance(item, int) for item in bounds):
        return None
    return Split(axis, (slice(*bounds),)), (source,)
