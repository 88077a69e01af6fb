"""ONNX nodes that average, take the largest or pad, as the planner sees them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from bncheck.graph.dataflow import Average, Maximum, Pad, Spec
from bncheck.graph.onnx.nodes import Attributes

if TYPE_CHECKING:
    from bncheck.graph.onnx.scope import Scope


def pooling(node: onnx.NodeProto, scope: Scope, a: Attributes) -> Spec | None:
    """Pooling, interpolation, means, and padding."""
    kind = node.op_type
    rank = scope.rank(node.input[0]) if node.input else 0
    if not rank:
        return None
    spatial = tuple(range(2, rank))
    if kind in ("GlobalAveragePool", "GlobalMaxPool"):
        return Average(spatial) if kind == "GlobalAveragePool" else Maximum(spatial)
    if kind == "GridSample":
        return Average(spatial, None if a("padding_mode", "zeros") == "zeros" else 1.0)
    if kind == "AveragePool":
        padded = any(a("pads", ())) or str(a("auto_pad", "NOTSET")).startswith("SAME")
        # With ceil_mode, too, windows may reach beyond the input, and runtimes count differently.
        reaches = padded or a("ceil_mode", 0)
        uneven = reaches and a("count_include_pad", 0)
        return Average(spatial, None if uneven else 1.0)
    if kind == "MaxPool" and len([name for name in node.output if name]) == 1:
        return Maximum(spatial)
    if kind in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"):
        return _reduction(node, scope, a, rank)
    if kind in ("Resize", "Upsample"):
        shapes = scope.shape(node.input[0]), scope.shape(node.output[0])
        cuts = a("coordinate_transformation_mode") == "tf_crop_and_resize"
        if cuts or shapes[0] is None or shapes[1] is None or shapes[0][1] != shapes[1][1]:
            return None
        return Average(spatial)
    return _pad(node, scope, a, rank) if kind == "Pad" else None


def _reduction(node: onnx.NodeProto, scope: Scope, a: Attributes, rank: int) -> Spec | None:
    axes = _axes(node, scope, a, rank)
    drops = not a("keepdims", 1)
    if axes is None:
        return None
    if node.op_type in ("ReduceMax", "ReduceMin"):
        return Maximum(axes, drops)
    sizes = [(scope.shape(node.input[0]) or ())[axis] for axis in axes]
    known = [size for size in sizes if isinstance(size, int)]
    total = float(math.prod(known)) if len(known) == len(sizes) else None
    return Average(axes, 1.0 if node.op_type == "ReduceMean" else total, drops)


def _axes(node: onnx.NodeProto, scope: Scope, a: Attributes, rank: int) -> tuple[int, ...] | None:
    axes = a("axes")
    if len(node.input) > 1 and node.input[1]:
        axes = scope.fixed(node.input[1])
        if axes is None:
            return None
    if axes is None or not len(axes):
        return None if a("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(int(axis) % rank for axis in axes))


def _pad(node: onnx.NodeProto, scope: Scope, a: Attributes, rank: int) -> Spec | None:
    amounts: Any = a("pads")
    value: Any = a("value", 0.0)
    if len(node.input) > 1:
        amounts = scope.fixed(node.input[1])
    if len(node.input) > 2 and node.input[2]:
        value = scope.fixed(node.input[2])
    given = scope.fixed(node.input[3]) if len(node.input) > 3 and node.input[3] else range(rank)
    if amounts is None or value is None or given is None:
        return None
    pairs = zip(given, amounts[: len(given)], amounts[len(given) :], strict=True)
    axes = tuple(int(axis) % rank for axis, *pair in pairs if any(pair))
    # A negative amount cuts, which an affine map passes as it does a copy.
    fills = a("mode", "constant") == "constant" and any(amount > 0 for amount in amounts)
    return Pad(axes, float(np.asarray(value).reshape(-1)[0]) if fills else None)
