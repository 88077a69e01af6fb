"""ONNX nodes that compute with parameters, and sums and products, as the planner sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from bncheck.graph.dataflow import (
    Add,
    Conv,
    ConvTranspose,
    Dim,
    Linear,
    Mul,
    Norm,
    Rectifier,
    Rescaled,
    Spec,
)
from bncheck.graph.einsum import einsum_spec
from bncheck.graph.geometry import centre_of
from bncheck.graph.onnx.nodes import Attributes
from bncheck.reading.onnx_norms import norm_node

if TYPE_CHECKING:
    from bncheck.graph.onnx.scope import Scope


_BATCH = "it normalises with the statistics of the batch: it was exported in training mode"
_BATCH_HINT = "call model.eval() before exporting"
_ALONE = "it normalises each image with its own statistics"
_EACH_PLACE = "it has statistics for each position, not for each channel (spatial=0)"


def linear_algebra(node: onnx.NodeProto, scope: Scope, a: Attributes) -> Spec | None:
    """Convolutions and products with a matrix."""
    kind = node.op_type
    if kind in ("Conv", "ConvTranspose"):
        shape = scope.shape(node.input[1])
        if shape is None:
            return None
        kernel = shape[2:]
        if kind == "ConvTranspose":
            return _transposed(scope, a, kernel)
        same = str(a("auto_pad", "NOTSET")).startswith("SAME") and set(kernel) != {1}
        return Conv(int(a("group", 1)), bool(same or any(a("pads", ()))), _centre(a, kernel))
    if kind == "Gemm":
        axes = (-2 if a("transA", 0) else -1, -1)
        return Linear(bool(a("transB", 0)), float(a("alpha", 1.0)), float(a("beta", 1.0)), axes)
    if kind == "MatMul":
        ranks = [scope.rank(name) for name in node.input]
        left = ranks[0] == 2 and scope.is_stored(node.input[0])
        if left and ranks[1] >= 2 and not scope.is_stored(node.input[1]):
            return Linear(output_first=True, axes=(-2, -2))
        if ranks[1] == 2 and ranks[0] >= 1:
            return Linear(output_first=False)
        if ranks[0] == 2 and ranks[1] > 2:
            return Linear(output_first=True, axes=(-2, -2))
    if kind == "Einsum" and len(node.input) == 2:
        for place in (1, 0):
            spec = einsum_spec(str(a("equation")), place)
            if spec is not None and scope.rank(node.input[place]) == 2:
                return spec
    return None


def _centre(a: Attributes, kernel: tuple[Dim, ...]) -> tuple[int, ...] | None:
    sizes = tuple(size for size in kernel if isinstance(size, int))
    number = len(kernel)
    pads = list(a("pads") or [0] * 2 * number)
    if len(sizes) != number or pads[:number] != pads[number:]:
        return None
    same = str(a("auto_pad", "NOTSET")).startswith("SAME")
    steps, gaps = a("strides") or [1], a("dilations") or [1]
    return centre_of(sizes, steps, gaps, None if same else pads[:number])


def _transposed(scope: Scope, a: Attributes, kernel: tuple[Dim, ...]) -> Spec:
    stride = tuple(a("strides", [1] * len(kernel)))
    # SAME_UPPER and SAME_LOWER cut off kernel - stride, which is nothing then.
    cut = a("auto_pad", "NOTSET") == "NOTSET" and any(a("pads", ()))
    tiles = (
        scope.opset >= 5  # before, Reshape (onnx/tiling.py) has another form
        and stride == kernel
        and not cut
        and not any(a("output_padding", ()))
        and a("output_shape") is None
        and set(a("dilations", [1])) == {1}
    )
    return ConvTranspose(int(a("group", 1)), tiles, stride if tiles else ())


def norms(node: onnx.NodeProto, scope: Scope, a: Attributes) -> Spec | None:
    """BatchNorm and InstanceNorm."""
    if node.op_type == "LayerNormalization" and len([name for name in node.output if name]) == 1:
        return Rescaled(-1) if scope.rank(node.input[1]) == 1 and a("axis", -1) == -1 else None
    says = norm_node(node, scope.opset)
    if node.op_type == "InstanceNormalization":
        return Norm(says.eps, True, _ALONE)
    if node.op_type != "BatchNormalization":
        return None
    if not says.spatial and scope.rank(node.input[0]) != 2:
        return Norm(says.eps, True, _EACH_PLACE)
    return Norm(says.eps, says.trains, _BATCH, _BATCH_HINT)


def elementwise(node: onnx.NodeProto, scope: Scope, a: Attributes) -> Spec | None:
    """Sums, products and rectifiers."""
    kind = node.op_type
    if scope.opset < 7 and a("broadcast") is not None:
        return None
    if kind in ("Add", "Sub") or (kind == "Sum" and len(node.input) == 2):
        return Add((1.0, -1.0 if kind == "Sub" else 1.0))
    if kind in ("Mul", "Div"):
        return Mul(divides=kind == "Div")
    if kind == "Neg":
        return Mul()
    if kind == "Max" and len(node.input) == 2 and _is_zero(scope, node.input[1]):
        return Rectifier(kind)
    if kind == "Clip" and _clips_at_zero(node, scope, a):
        return Rectifier(kind)
    return Rectifier(kind) if kind in ("Relu", "LeakyRelu", "PRelu", "Abs") else None


def _clips_at_zero(node: onnx.NodeProto, scope: Scope, a: Attributes) -> bool:
    """Whether it is a ReLU."""
    if scope.opset < 11:
        return a("min") == 0 and a("max") is None
    low, high = (*node.input[1:3], "", "")[:2]
    return not high and _is_zero(scope, low)


def _is_zero(scope: Scope, name: str) -> bool:
    number = scope.fixed(name)
    return number is not None and not np.any(number)
