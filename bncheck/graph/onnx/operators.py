"""The table of ONNX' operators, put together from those of the families."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from bncheck.graph.onnx.algebra import ALGEBRA
from bncheck.graph.onnx.call import Describe, Described, NodeCall
from bncheck.graph.onnx.pooling import POOLING
from bncheck.graph.onnx.scope import Scope
from bncheck.graph.onnx.views import VIEWS
from bncheck.graph.operators import ONNX, UndescribedError
from bncheck.graph.specs import Opaque, Spec
from bncheck.reading.onnx_names import STANDARD

#: What has attributes `axis` and `broadcast` before opset 7; Gemm's `broadcast` is about its bias.
_ALONG_AXIS = ("Add", "Sub", "Mul", "Div")


def _always(spec: Spec) -> Describe:
    return lambda _: spec


OPERATORS: Mapping[str, Describe] = {
    **{name: _always(known.spec) for name, known in ONNX.items()},
    **ALGEBRA,
    **VIEWS,
    **POOLING,
}


def described(node: onnx.NodeProto, scope: Scope) -> Described:
    """What a node is to the planner, and its inputs, the data before the weights."""
    call = NodeCall(node, scope)
    describe = OPERATORS.get(call.kind) if node.domain in STANDARD else None
    if describe is None:
        return Opaque(call.kind), call.inputs
    try:
        if call.opset < 7 and call.kind in _ALONG_AXIS and call.attribute("broadcast"):
            call.inputs = [call.inputs[0], _along_axis(call)]
        found = describe(call)
    except UndescribedError:
        found = None
    if isinstance(found, tuple):
        return found
    return found or Opaque(call.kind), call.inputs


def _along_axis(call: NodeCall) -> str:
    """Before opset 7, the second operand of a sum lies along an axis that is given, or the last."""
    numbers, rank = call.numbers(1), call.rank()
    axis = call.attribute("axis")
    behind = 0 if axis is None else rank - axis % max(rank, 1) - np.ndim(numbers)
    if numbers is None or behind < 0:
        raise UndescribedError
    wide = np.asarray(numbers).reshape((*np.shape(numbers), *(1,) * behind)).astype(np.float64)
    return call.scope.derived(f"{call.results[0]}:1", lambda: wide, wide.shape, call.name(1))
