"""Sizes that onnx loses: `x.view(n, t, *x.shape[1:])` leaves a small program that computes a shape.

It is followed size by size, each a number or the name of one that is not known.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bncheck.graph.dataflow import Dim, Shape
from bncheck.graph.onnx.nodes import FLOATS, Attributes, dim_of
from bncheck.reading.onnx_constants import STANDARD

if TYPE_CHECKING:
    from bncheck.graph.onnx.scope import Scope

_INTEGER = onnx.TensorProto.INT64
_SMALL = 64  # numbers that can be a shape
_REFUSALS = (
    onnx.defs.SchemaError,
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
)
_SAME = {"Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape"}


def followed(node: onnx.NodeProto, scope: Scope) -> Shape | None:
    """The sizes that a node of such a program gives, in their order; None for any other node."""
    if node.domain not in STANDARD or not node.input:
        return None
    a = Attributes(node)
    if node.op_type == "Shape":
        shape = scope.shape(node.input[0])
        return None if shape is None else shape[a("start", 0) : a("end")]
    if not any(name in scope.sizes for name in node.input):
        return None
    given = [scope.sizes_in(name) for name in node.input]
    first = given[0]
    if node.op_type in _SAME:
        return first
    if node.op_type == "Concat" and all(sizes is not None for sizes in given):
        return tuple(size for sizes in given for size in sizes or ())
    if node.op_type == "Mul" and all(sizes is not None and len(sizes) == 1 for sizes in given):
        return (_product([size for sizes in given for size in sizes or ()]),)
    if node.op_type == "Gather" and first is not None:
        return _picked(first, scope.fixed(node.input[1]))
    if node.op_type == "Slice" and first is not None:
        cuts = [given[slot] for slot in (1, 2)] if len(given) > 2 else [a("starts"), a("ends")]
        return _cut(first, *cuts, given[4] if len(given) > 4 else (1,))
    return None


def _picked(sizes: Shape, places: Any) -> Shape | None:
    if places is None or any(not -len(sizes) <= i < len(sizes) for i in np.ravel(places)):
        return None
    return tuple(sizes[i] for i in np.ravel(places))


def _cut(sizes: Shape, *bounds: Any) -> Shape | None:
    """From, to, step: where each is one number."""
    known = all(bound and isinstance(bound[0], int) for bound in bounds)
    return sizes[slice(*(bound[0] for bound in bounds))] if known and bounds[2][0] else None


def _product(sizes: list[Dim]) -> Dim:
    number = math.prod(size for size in sizes if isinstance(size, int))
    names = [size for size in sizes if isinstance(size, str)]
    return "*".join([*([str(number)] if number != 1 else []), *names]) if names else number


def shape_of(node: onnx.NodeProto, scope: Scope) -> Shape | None:
    """The shape of a node's result as far as its inputs tell, None where they tell nothing new."""
    known = [scope.shape(name) for name in node.input if name]
    if node.domain not in STANDARD or not known or known[0] is None:
        return None
    if node.op_type == "Reshape":
        return _reshaped(node, scope, known[0])
    shape = scope.shape(node.output[0])
    names = {size for sizes in known for size in sizes or ()}
    if shape is not None and all(isinstance(size, int) or size in names for size in shape):
        return None
    return _inferred(node, scope)


def _inferred(node: onnx.NodeProto, scope: Scope) -> Shape | None:
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
    try:
        schema = onnx.defs.get_schema(node.op_type, scope.opset, node.domain)
        found = onnx.shape_inference.infer_node_outputs(schema, node, types, data)
    except (*_REFUSALS, ValueError):  # an integer where it wants a truth value, for one
        return None
    result = found.get(node.output[0])
    if result is None or not result.tensor_type.HasField("shape"):
        return None
    unknown = (f"?{node.output[0]}.{place}" for place in itertools.count())
    pairs = zip(result.tensor_type.shape.dim, unknown, strict=False)
    return tuple(dim_of(dim, name) for dim, name in pairs)


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
    solved = _product([number // known, *(symbols - used).elements()])
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
    if wanted is None or Attributes(node)("allowzero", 0):
        return None
    sizes = list(wanted)
    for place, size in enumerate(sizes):
        if size == 0 and place < len(source):
            sizes[place] = source[place]
        elif size == -1:
            sizes[place] = f"?{node.output[0]}.{place}"
    return tuple(sizes)
