"""The table of torch's operators, put together from those of the families."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch.fx import Node

from bncheck.graph.operators import TORCH, Alike, UndescribedError
from bncheck.graph.program.algebra import ALGEBRA
from bncheck.graph.program.calls import Describe, Described, ProgramCall
from bncheck.graph.program.gathers import GATHERS
from bncheck.graph.program.norms import NORMS
from bncheck.graph.program.pooling import POOLING
from bncheck.graph.program.views import VIEWS
from bncheck.graph.specs import Identity, Opaque, Split


def _alike(known: Alike) -> Describe:
    return lambda call: (known.spec, (*call.args, None)[: known.inputs])


OPERATORS: Mapping[str, Describe] = {
    **{name: _alike(known) for name, known in TORCH.items()},
    **ALGEBRA,
    **NORMS,
    **VIEWS,
    **POOLING,
    **GATHERS,
}


def described(call: ProgramCall) -> Described:
    """What a call is to the planner, and its inputs, the data before the weights.

    An input is a node, a number, None, or (node, index) for one output of several.
    """
    target = call.node.target
    if target is operator.getitem:
        return _item(call)
    standard = isinstance(target, torch._ops.OpOverload) and target.namespace == "aten"
    describe = OPERATORS.get(call.name) if standard else None
    try:
        found = None if describe is None else describe(call)
    except UndescribedError:
        found = None
    return found or (Opaque(call.name), tuple(call.node.all_input_nodes))


def _item(call: ProgramCall) -> Described:
    """One of a call's results: of most, the first is the only one that is like the input."""
    source, index = call.args
    assert isinstance(source, Node)
    spec, _ = described(ProgramCall(source, call.constants))
    if isinstance(spec, Split):
        return Identity(), ((source, index),)
    return (Identity() if index == 0 else Opaque("getitem")), (source,)
