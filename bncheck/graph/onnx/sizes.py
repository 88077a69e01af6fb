"""Sizes that onnx loses: `x.view(n, t, *x.shape[1:])` leaves a small program that computes a shape.

It is followed size by size, each a number or the name of one that is not known. To follow another
operator, add a line to `_FOLLOWED`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx

from bncheck.graph.dataflow import Dim, Shape
from bncheck.graph.onnx.call import NodeCall
from bncheck.graph.onnx.scope import Scope
from bncheck.graph.operators import UndescribedError
from bncheck.reading.onnx_names import STANDARD


def follow(node: onnx.NodeProto, scope: Scope) -> None:
    """Let the scope know the sizes that a node computes."""
    sizes = _followed(node, scope)
    if sizes is not None:
        scope.sizes[node.output[0]] = sizes


def _followed(node: onnx.NodeProto, scope: Scope) -> Shape | None:
    """The sizes that a node of such a program gives, in their order; None for any other node."""
    compute = _FOLLOWED.get(node.op_type) if node.domain in STANDARD else None
    begins = node.op_type == "Shape"
    if compute is None or not (begins or any(name in scope.sizes for name in node.input)):
        return None
    try:
        return compute(NodeCall(node, scope))
    except UndescribedError:
        return None


def _sizes(call: NodeCall, slot: int) -> Shape:
    """The sizes that an input holds."""
    sizes = call.scope.sizes_in(call.name(slot))
    if sizes is None:
        raise UndescribedError
    return sizes


def _begun(call: NodeCall) -> Shape | None:
    shape = call.scope.shape(call.name(0))
    start, end = call.attribute("start", 0), call.attribute("end")
    return None if shape is None else shape[start:end]


def _same(call: NodeCall) -> Shape:
    return _sizes(call, 0)


def _joined(call: NodeCall) -> Shape:
    return tuple(size for slot in range(len(call.inputs)) for size in _sizes(call, slot))


def _multiplied(call: NodeCall) -> Shape | None:
    factors = [_sizes(call, slot) for slot in (0, 1)]
    return (product([f[0] for f in factors]),) if all(len(f) == 1 for f in factors) else None


def _total(call: NodeCall) -> Shape | None:
    """The product of all sizes of a list."""
    if len(call.shape()) != 1 or call.attribute("noop_with_empty_axes", 0):
        return None
    return (product(list(_sizes(call, 0))),)


def _larger(call: NodeCall) -> Shape | None:
    """Of sizes that are spread against one another, one is 1 where they differ."""
    first, second = (_sizes(call, slot) for slot in (0, 1))
    if len(call.inputs) != 2 or len(first) != len(second):
        return None
    pairs = list(zip(first, second, strict=True))
    if any(a != b and 1 not in (a, b) for a, b in pairs):
        return None
    return tuple(a if b == 1 else b for a, b in pairs)


def _picked(call: NodeCall) -> Shape | None:
    sizes, places = _sizes(call, 0), np.ravel(call.numbers(1))
    if any(not -len(sizes) <= place < len(sizes) for place in places):
        return None
    return tuple(sizes[place] for place in places)


def _cut(call: NodeCall) -> Shape | None:
    """From, to, step: where each is one number."""
    if len(call.inputs) > 2:
        bounds = [_sizes(call, 1), _sizes(call, 2)]
    else:
        bounds = [call.attribute("starts"), call.attribute("ends")]
    bounds.append(_sizes(call, 4) if len(call.inputs) > 4 else (1,))
    start, end, step = (bound[0] if bound else None for bound in bounds)
    if not (isinstance(start, int) and isinstance(end, int) and isinstance(step, int) and step):
        return None
    return _sizes(call, 0)[start:end:step]


_FOLLOWED: dict[str, Callable[[NodeCall], Shape | None]] = {
    "Shape": _begun,
    **dict.fromkeys(("Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape"), _same),
    "Concat": _joined,
    "Mul": _multiplied,
    "Max": _larger,
    "ReduceProd": _total,
    "Gather": _picked,
    "Slice": _cut,
}


def product(sizes: list[Dim]) -> Dim:
    """The product of sizes, the names behind the number: `2*n`."""
    number = math.prod(size for size in sizes if isinstance(size, int))
    names = [size for size in sizes if isinstance(size, str)]
    return "*".join([*([str(number)] if number != 1 else []), *names]) if names else number
