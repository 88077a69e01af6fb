"""The shapes of values as far as the nodes tell, where onnx' own inference lost them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bncheck.graph.dataflow import Dim, Shape, Value
from bncheck.graph.onnx.call import NodeCall
from bncheck.graph.onnx.nodes import FLOATS, dim_of
from bncheck.graph.onnx.sizes import product
from bncheck.graph.operators import UndescribedError
from bncheck.graph.products import spelled_out
from bncheck.reading.onnx_constants import inferred_types
from bncheck.reading.onnx_names import STANDARD

if TYPE_CHECKING:
    from bncheck.graph.onnx.scope import Scope

_INTEGER = onnx.TensorProto.INT64
_SMALL = 64  # numbers that can be a shape


def complete(node: onnx.NodeProto, scope: Scope) -> None:
    """Note what is known of the shape of a node's first result."""
    if not node.output:
        return
    name = node.output[0]
    known = _shape_of(node, scope)
    if known is not None:
        scope.values[name] = replace(scope.values[name], shape=known)
    given = (scope.values.get(each) for each in node.input)
    floats = node.domain in STANDARD and any(value and value.dtype for value in given)
    if floats and not scope.values[name].dtype:
        scope.values[name] = replace(scope.values[name], dtype=_inferred(node, scope)[1])
    guess = _GUESSES.get(node.op_type)
    if guess is None or (scope.shape(name) is not None and scope.values[name].dtype):
        return
    try:
        shape, like = guess(NodeCall(node, scope))
    except (KeyError, UndescribedError):
        return
    dtype = scope.values[name].dtype or like.dtype
    scope.values[name] = Value(name, scope.shape(name) or shape, dtype)


def _windows(call: NodeCall) -> tuple[Shape | None, Value]:
    """Rank and channels behind a computed reshape: a weight tells them."""
    weight = call.shape(1)
    wide = weight[1] if isinstance(weight[1], int) else 0
    channels = weight[0] if call.kind == "Conv" else wide * call.attribute("group", 1)
    name = call.node.output[0]
    rest = (f"?{name}.{place}" for place in range(2, len(weight)))
    return (f"?{name}.0", channels, *rest), call.scope.values[call.name(1)]


def _same(call: NodeCall) -> tuple[Shape | None, Value]:
    source = call.scope.values[call.name(0)]
    return source.shape, source


def _first(call: NodeCall) -> tuple[Shape | None, Value]:
    """Before opset 7 only the second operand was spread, and onnx infers nothing."""
    if call.scope.opset >= 7:
        raise UndescribedError
    return _same(call)


def _summed(call: NodeCall) -> tuple[Shape | None, Value]:
    """onnx gives up where an ellipsis has other axes in each operand."""
    shapes = [call.scope.shape(name) for name in call.inputs]
    known = [shape for shape in shapes if shape is not None]
    equation, ranks = str(call.attribute("equation", "")), [len(shape) for shape in known]
    spelled = spelled_out(equation, ranks) if len(known) == len(shapes) else None
    if spelled is None:
        raise UndescribedError
    sizes: dict[str, Dim] = {}
    for term, shape in zip(spelled[0], known, strict=True):
        sizes |= {x: size for x, size in zip(term, shape, strict=True) if sizes.get(x, 1) == 1}
    if set(spelled[1]) - sizes.keys():
        raise UndescribedError
    return tuple(sizes[x] for x in spelled[1]), call.scope.values[call.name(0)]


_GUESSES: dict[str, Callable[[NodeCall], tuple[Shape | None, Value]]] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), _windows),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _first),
    "Einsum": _summed,
    **dict.fromkeys(("BatchNormalization", "GroupNormalization"), _same),
    **dict.fromkeys(("MeanVarianceNormalization", "LpNormalization", "LRN"), _same),
    **dict.fromkeys(("Identity", "Dropout", "Clip"), _same),
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Elu"), _same),
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "HardSwish", "Tanh"), _same),
}


def _shape_of(node: onnx.NodeProto, scope: Scope) -> Shape | None:
    """The shape of a node's result as far as its inputs tell, None where they tell nothing new."""
    known = [scope.shape(name) for name in node.input if name]
    if node.domain not in STANDARD or not known or known[0] is None:
        return None
    if node.op_type == "Reshape":
        return _reshaped(node, scope, known[0])
    if node.op_type == "Expand" and (sizes := scope.sizes_in(node.input[1])) is not None:
        rank = max(len(known[0]), len(sizes))
        pairs = zip(*((1,) * (rank - len(s)) + s for s in (known[0], sizes)), strict=True)
        return tuple(size if wanted == 1 else wanted for size, wanted in pairs)
    if node.op_type == "Compress":
        return _compressed(node, scope, known[0])
    shape = scope.shape(node.output[0])
    names = {size for sizes in known for size in sizes or ()}
    if shape is not None and all(isinstance(size, int) or size in names for size in shape):
        return None
    return _inferred(node, scope)[0]


def _compressed(node: onnx.NodeProto, scope: Scope, source: Shape) -> Shape | None:
    """As many elements along the axis as the fixed flags say."""
    axis, flags = NodeCall(node, scope).attribute("axis"), scope.fixed(node.input[1])
    if axis is None or flags is None or not source:
        return None
    place, size = axis % len(source), source[axis % len(source)]
    left = np.count_nonzero(np.ravel(flags)[: size if isinstance(size, int) else None])
    return (*source[:place], int(left), *source[place + 1 :])


def _inferred(node: onnx.NodeProto, scope: Scope) -> tuple[Shape | None, str]:
    """onnx' own inference for one node, which now knows more than when it saw the whole model."""
    types, data = {}, {}
    for name in filter(None, node.input):
        shape = scope.shape(name)
        if shape is not None and math.prod(map(_number, shape)) <= _SMALL:
            numbers = scope.fixed(name)
            if numbers is not None:
                data[name] = numpy_helper.from_array(np.asarray(numbers))
        value = scope.values.get(name)
        kind = next((k for k, d in FLOATS.items() if value and d == value.dtype), _INTEGER)
        types[name] = helper.make_tensor_type_proto(kind, shape)
    found = inferred_types(node, scope.opset, types, data)
    result = found.get(node.output[0])
    if result is None:
        return None, ""
    dtype = FLOATS.get(result.tensor_type.elem_type, "")
    if not result.tensor_type.HasField("shape"):
        return None, dtype
    unknown = (f"?{node.output[0]}.{place}" for place in itertools.count())
    pairs = zip(result.tensor_type.shape.dim, unknown, strict=False)
    return tuple(dim_of(dim, name) for dim, name in pairs), dtype


def _reshaped(node: onnx.NodeProto, scope: Scope, source: Shape) -> Shape | None:
    """One size may be written as -1: both sides hold equally many elements."""
    shape = _wanted(node, scope, source) or scope.shape(node.output[0])
    if shape is None:
        return None
    symbols = Counter(name for size in source for name in _names(size))
    unknown = [i for i, size in enumerate(shape) if set(_names(size)) - set(symbols)]
    if len(unknown) > 1:
        return shape
    rest = [size for i, size in enumerate(shape) if i not in unknown]
    used = Counter(name for size in rest for name in _names(size))
    number, known = (math.prod(map(_number, sizes)) for sizes in (source, rest))
    if used - symbols or not known or number % known:
        return shape
    solved = product([number // known, *(symbols - used).elements()])
    return tuple(solved if i in unknown else size for i, size in enumerate(shape))


def _names(size: Dim) -> list[str]:
    return [] if isinstance(size, int) else [part for part in size.split("*") if not part.isdigit()]


def _number(size: Dim) -> int:
    return (
        size
        if isinstance(size, int)
        else math.prod(int(part) for part in size.split("*") if part.isdigit())
    )


def _wanted(node: onnx.NodeProto, scope: Scope, source: Shape) -> Shape | None:
    """The shape that a Reshape asks for, where that is known; its -1 gets a name."""
    wanted = scope.sizes_in(node.input[1]) if len(node.input) > 1 else None
    if wanted is None or NodeCall(node, scope).attribute("allowzero", 0):
        return None
    sizes = list(wanted)
    for place, size in enumerate(sizes):
        if size == 0 and place < len(source):
            sizes[place] = source[place]
        elif size == -1:
            sizes[place] = f"?{node.output[0]}.{place}"
    return tuple(sizes)
