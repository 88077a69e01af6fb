"""Calls that average, take the largest or pad, as the planner sees them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.fx import Node

from bncheck.graph.dataflow import (
    Average,
    Maximum,
    Pad,
    Reshape,
    Shape,
    Spec,
)
from bncheck.graph.program.calls import (
    Arguments,
    Described,
    rank_of,
    shape_and_dtype,
    sizes_of,
)

_AVERAGES = {"adaptive_avg_pool1d": 1, "adaptive_avg_pool2d": 2, "adaptive_avg_pool3d": 3,
             "_adaptive_avg_pool2d": 2, "_adaptive_avg_pool3d": 3}  # fmt: skip
_RESIZES = {
    "upsample_nearest1d": 1, "upsample_nearest2d": 2, "upsample_nearest3d": 3,
    "_upsample_nearest_exact1d": 1, "_upsample_nearest_exact2d": 2, "_upsample_nearest_exact3d": 3,
    "upsample_linear1d": 1, "upsample_bilinear2d": 2, "upsample_trilinear3d": 3,
    "upsample_bicubic2d": 2, "_upsample_bilinear2d_aa": 2, "_upsample_bicubic2d_aa": 2,
}  # fmt: skip
_MAXIMA = {"max_pool1d": 1, "max_pool2d": 2, "max_pool3d": 3, "max_pool2d_with_indices": 2,
           "max_pool3d_with_indices": 3, "adaptive_max_pool1d": 1, "adaptive_max_pool2d": 2,
           "adaptive_max_pool3d": 3, "max_pool1d_with_indices": 1}  # fmt: skip
_MIRRORS = {
    "reflection_pad1d": 1, "reflection_pad2d": 2, "reflection_pad3d": 3,
    "replication_pad1d": 1, "replication_pad2d": 2, "replication_pad3d": 3,
}  # fmt: skip


def pooling(node: Node, name: str, a: Arguments) -> Described | None:
    """Pooling, interpolation, means, and padding."""
    source = node.args[0] if node.args else None
    rank = rank_of(source)

    def last(number: int) -> tuple[int, ...]:
        return tuple(range(rank - number, rank))

    if name in _AVERAGES:
        return Average(last(_AVERAGES[name])), (source,)
    if name in ("avg_pool1d", "avg_pool2d", "avg_pool3d"):
        number = int(name[-2])
        counts = any(sizes_of(a("padding"), number)) and bool(a("count_include_pad"))
        uneven = counts or a("divisor_override") is not None
        return Average(last(number), None if uneven else 1.0), (source,)
    if name == "rot90":  # each place takes another one's number: all its weight is there
        return Average(tuple(sorted(d % rank for d in a("dims")))), (source,)
    if name == "grid_sampler":  # padding_mode 0 is "zeros"
        return Average(last(rank - 2), None if a("padding_mode") == 0 else 1.0), (
            source,
            node.args[1],
        )
    if name in _RESIZES:
        return Average(last(_RESIZES[name])), (source,)
    if name in _MAXIMA:
        return Maximum(last(_MAXIMA[name])), (source,)
    if name in ("mean", "sum", "amax", "amin") and not _changes_dtype(node, source):
        return _reduction(name, a, source), (source,)
    if name in ("max", "min") and isinstance(a("dim"), int):
        return Maximum((a("dim") % rank,), drops=not a("keepdim", False)), (source,)
    return _padding(node, name, a, source, last)


def windows(name: str, a: Arguments, node: Node) -> tuple[Spec, Shape, Spec] | None:
    """Sliding windows as two steps, with the shape between them: what moves stands for its mean."""
    if name not in ("unfold", "im2col"):
        return None
    source = a("self")
    shape, _ = shape_and_dtype(source.meta["val"])
    result, _ = shape_and_dtype(node.meta["val"])
    if shape is None or result is None:
        return None
    if name == "unfold":  # the places of a window are a new, last axis
        axis = int(a("dimension")) % len(shape)
        return Reshape(), (*shape, 1), Average((axis, len(shape)))
    if len(shape) != 4:
        return None
    places = math.prod(sizes_of(a("kernel_size"), 2))
    gain = None if any(sizes_of(a("padding"), 2)) else 1.0
    return Average((2, 3), gain), (*shape[:2], places, result[2]), Reshape()


def _reduction(name: str, a: Arguments, source: Any) -> Average | Maximum:
    shape = source.meta["val"].shape
    given = a("dim")
    dims = range(len(shape)) if given in (None, []) else sizes_of(given, 1)
    axes = tuple(sorted(d % len(shape) for d in dims))
    drops = not a("keepdim", False)
    if name in ("amax", "amin"):
        return Maximum(axes, drops)
    sizes = [shape[axis] for axis in axes]
    known = all(isinstance(size, int) for size in sizes)
    total = float(math.prod(sizes)) if known else None
    return Average(axes, 1.0 if name == "mean" else total, drops)


def _changes_dtype(node: Node, source: Any) -> bool:
    return bool(node.meta["val"].dtype != source.meta["val"].dtype)


def _padding(
    node: Node, name: str, a: Arguments, source: Any, last: Callable[[int], tuple[int, ...]]
) -> Described | None:
    if name in _MIRRORS:
        return Pad(last(_MIRRORS[name]), None), (source,)
    if name in ("pad", "constant_pad_nd"):
        amounts = list(a("pad"))
        axes = tuple(
            axis
            for i, axis in enumerate(reversed(last(len(amounts) // 2)))
            if any(size != 0 for size in amounts[2 * i : 2 * i + 2])
        )
        mode = a("mode", "constant")
        value = a("value") or 0.0
        if mode == "constant" and not isinstance(value, (int, float)):
            return None
        # A negative amount cuts, which an affine map passes as it does a copy.
        fills = mode == "constant" and any(size > 0 for size in amounts)
        return Pad(axes, float(value) if fills else None), (source,)
    return None
