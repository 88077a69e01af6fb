"""ONNX nodes that move numbers about, as the planner sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from bncheck.graph.dataflow import (
    Concat,
    Expand,
    Gather,
    Identity,
    Lookup,
    PixelShuffle,
    Reshape,
    ShapeOf,
    Spec,
    Split,
    Transpose,
)
from bncheck.graph.onnx.nodes import FLOATS, Attributes

if TYPE_CHECKING:
    from bncheck.graph.onnx.scope import Scope


_RESHAPES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}


def views(node: onnx.NodeProto, scope: Scope, a: Attributes) -> Spec | None:
    """The same numbers elsewhere, in another shape, joined or cut."""
    kind = node.op_type
    source = node.input[0] if node.input else ""
    rank = scope.rank(source)
    if kind in ("Shape", "Size"):
        return ShapeOf()
    if kind == "Identity" or (kind == "Dropout" and _is_idle(node, scope)):
        return Identity()
    if kind == "Cast":
        source_dtype = scope.values[source].dtype if source in scope.values else ""
        return Identity() if source_dtype and a("to") in FLOATS else None
    if kind in _RESHAPES:
        return Reshape()
    if kind == "Transpose" and rank:
        return Transpose(tuple(a("perm", range(rank - 1, -1, -1))))
    if kind == "Expand":
        return Expand()
    if kind == "Concat" and rank:
        return Concat(int(a("axis", 1)) % rank)
    if kind == "Split" and rank:
        return _split(node, scope, int(a("axis", 0)) % rank)
    if kind == "Slice" and rank:
        return _slice(node, scope, a, rank)
    if kind in ("DepthToSpace", "SpaceToDepth"):
        last = kind == "SpaceToDepth" or a("mode", "DCR") == "DCR"
        return PixelShuffle(int(a("blocksize")), kind == "SpaceToDepth", depth_last=last)
    if kind == "Gather" and rank:
        return _gather(node, scope, int(a("axis", 0)) % rank)
    return _tile(node, scope) if kind == "Tile" and rank else None


def _is_idle(node: onnx.NodeProto, scope: Scope) -> bool:
    """Whether a Dropout is in inference mode."""
    if scope.opset < 7:
        return bool(Attributes(node)("is_test", 0))
    if scope.opset < 12:
        return True
    if len(node.input) < 3 or not node.input[2]:
        return True
    mode = scope.fixed(node.input[2])
    return mode is not None and not bool(np.any(mode))


def _split(node: onnx.NodeProto, scope: Scope, axis: int) -> Spec | None:
    parts, start = [], 0
    for name in node.output:
        shape = scope.shape(name)
        size = shape[axis] if shape else None
        if not isinstance(size, int):
            return None
        parts.append(slice(start, start + size))
        start += size
    return Split(axis, tuple(parts))


def _slice(node: onnx.NodeProto, scope: Scope, a: Attributes, rank: int) -> Spec | None:
    given: list[Any] = [a(name) for name in ("starts", "ends", "axes")] + [None]
    for slot, name in enumerate(node.input[1:5]):
        if name:
            numbers = scope.fixed(name)
            if numbers is None:
                return None
            given[slot] = [int(n) for n in np.asarray(numbers).reshape(-1)]
    starts, ends, axes, steps = given
    if starts is None or ends is None:
        return None
    axes = [axis % rank for axis in (range(len(starts)) if axes is None else axes)]
    cuts = zip(axes, starts, ends, steps or [1] * len(axes), strict=True)
    return Gather(tuple((axis, _picked(scope, node, axis, *cut)) for axis, *cut in cuts))


def _picked(
    scope: Scope, node: onnx.NodeProto, axis: int, start: int, end: int, step: int
) -> tuple[int, ...] | None:
    size = (scope.shape(node.input[0]) or ())[axis]
    if not isinstance(size, int) or not step:
        return None
    # Python takes an end of -1 for the last place; ONNX means "before the first" by -size - 1.
    stop = None if step < 0 and end < -size else end
    return tuple(range(size)[start:stop:step])


def _gather(node: onnx.NodeProto, scope: Scope, axis: int) -> Spec | None:
    indices, size = scope.fixed(node.input[1]), (scope.shape(node.input[0]) or ())[axis]
    if indices is None and axis == 0 and scope.is_stored(node.input[0]):
        return Lookup() if scope.rank(node.input[0]) == 2 else None
    if indices is None or np.ndim(indices) > 1:
        return None
    if np.ndim(indices) == 0:
        if not isinstance(size, int):
            return None
        index = int(indices) % size
        return Split(axis, (slice(index, index + 1),), drops=True)
    places = tuple(int(i) % size for i in indices) if isinstance(size, int) else None
    return Gather(((axis, places),))


def _tile(node: onnx.NodeProto, scope: Scope) -> Spec | None:
    counts, shape = scope.fixed(node.input[1]), scope.shape(node.input[0])
    if counts is None or shape is None:
        return None
    pairs = list(zip(counts.tolist(), shape, strict=True))
    return Gather(tuple((i, _tiled(n, size)) for i, (n, size) in enumerate(pairs) if n != 1))


def _tiled(count: int, size: int | str) -> tuple[int, ...] | None:
    return tuple(range(size)) * count if isinstance(size, int) else None
