"""What a node of an exported graph is to the planner."""

from __future__ import annotations

import operator

import torch
from torch.fx import Node

from bncheck.graph.aten import operators
from bncheck.graph.aten.calls import Described
from bncheck.graph.program.calls import ProgramCall
from bncheck.graph.specs import Identity, Opaque, Split


def described(call: ProgramCall) -> Described:
    """What a call is to the planner, and its inputs, the data before the weights.

    An input is a node, a number, None, or (node, index) for one output of several.
    """
    target = call.node.target
    if target is operator.getitem:
        return _item(call)
    standard = isinstance(target, torch._ops.OpOverload) and target.namespace == "aten"
    found = operators.described(call) if standard else None
    return found or (Opaque(call.name), tuple(call.node.all_input_nodes))


def _item(call: ProgramCall) -> Described:
    """One of a call's results: of most, the first is the only one that is like the input."""
    source, index = call.args
    assert isinstance(source, Node)
    spec, _ = described(ProgramCall(source, call.constants))
    if isinstance(spec, Split):
        return Identity(), ((source, index),)
    return (Identity() if index == 0 else Opaque("getitem")), (source,)
