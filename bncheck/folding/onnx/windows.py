"""How much of a map shows what a region does: a few places, where its calls treat all alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import helper

from bncheck.folding.difference import Output, is_float

#: Calls that do the same at every place, with what lies around it.
_WITH_KERNEL = {"Conv", "ConvTranspose", "MaxPool", "AveragePool"}
_OF_ALL_PLACES = {"DepthToSpace", "GlobalAveragePool", "GlobalMaxPool"}
_POINTWISE = {
    "Add", "Cast", "Clip", "Div", "Dropout", "Elu", "Gelu", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "Mish", "Mul", "Neg", "PRelu", "Relu", "Selu", "Sigmoid",
    "Softplus", "Sub", "Sum", "Tanh",
}  # fmt: skip
#: Places along each axis of a line, a plane and a volume beside those that a kernel sees.
_PLACES = {1: 16, 2: 4, 3: 3}


#: The sizes of constants by their names.
Shapes = Mapping[str, Sequence[int]]


def windows(
    nodes: Sequence[onnx.NodeProto], values: Mapping[str, Any], fixed: Shapes
) -> Mapping[str, Output]:
    """The middle of the maps that nodes read, of one sample; nothing where all of it is needed.

    What has a single place, as a factor for each channel, is taken as it is.

    So large that every number of every kernel meets values that are not padding.
    """
    maps = [value for value in values.values() if is_float(value) and value.ndim > 2]
    sizes = {value.shape[2:] for value in maps if max(value.shape[2:]) > 1}
    calls = [node for node in nodes if not fixed.keys() >= set(node.output)]
    if len(maps) < len(values) or len(sizes) != 1:
        return {}
    (size,) = sizes
    if not all(_treats_places_alike(node, fixed, len(size)) for node in calls):
        return {}
    reach = _reach(calls, fixed) + _PLACES.get(len(size), 3)
    first = [max(0, (n - reach) // 2) for n in size]
    middle = tuple(slice(f, f + reach) for f in first)
    return {
        name: value[(slice(0, 1), slice(None), *(middle if value.shape[2:] == size else ()))]
        for name, value in values.items()
    }


def _treats_places_alike(node: onnx.NodeProto, fixed: Shapes, axes: int) -> bool:
    """Whether a call does not know where in the map it is, and no constant has numbers by place."""
    if node.op_type in _WITH_KERNEL:
        return all(name in fixed for name in node.input[1:] if name)
    if node.op_type == "BatchNormalization" or node.op_type in _OF_ALL_PLACES:
        return True
    if node.op_type == "Concat":
        along = next(a.i for a in node.attribute if a.name == "axis")
        return along == 1 and fixed.keys().isdisjoint(node.input)
    if node.op_type in ("Resize", "Upsample"):  # by factors, not to sizes
        return not any(node.input[3:]) and fixed.keys() >= {n for n in node.input[1:] if n}
    constants = [fixed[name] for name in node.input if name in fixed]
    return node.op_type in _POINTWISE and all(
        math.prod(sizes[max(0, len(sizes) - axes) :]) == 1 for sizes in constants
    )


def _reach(nodes: Sequence[onnx.NodeProto], fixed: Shapes) -> int:
    """How far the kernels of all calls see together."""
    reach, stride = 0, 1
    for node in nodes:
        if node.op_type not in _WITH_KERNEL:
            continue
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        kernel = fixed[node.input[1]][2:] if len(node.input) > 1 else given["kernel_shape"]
        gaps = given.get("dilations") or [1] * len(kernel)
        seen = max(((k - 1) * gap for k, gap in zip(kernel, gaps, strict=True)), default=0)
        reach += seen * stride
        stride *= max(given.get("strides") or [1])
    return reach
