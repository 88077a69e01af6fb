"""The table of ONNX' operators, put together from those of the families."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from bncheck.graph.onnx.algebra import ALGEBRA
from bncheck.graph.onnx.call import Describe, Described, NodeCall
from bncheck.graph.onnx.pooling import POOLING
from bncheck.graph.onnx.scope import Scope
from bncheck.graph.onnx.views import VIEWS
from bncheck.graph.operators import ONNX, UndescribedError
from bncheck.graph.specs import Opaque, Spec
from bncheck.reading.onnx_names import STANDARD


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
    # Before opset 7 this attribute says along which axis the second operand lies.
    if describe is None or (call.opset < 7 and call.attribute("broadcast") is not None):
        return Opaque(call.kind), call.inputs
    try:
        found = describe(call)
    except UndescribedError:
        found = None
    if isinstance(found, tuple):
        return found
    return found or Opaque(call.kind), call.inputs
