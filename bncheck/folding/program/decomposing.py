"""Calls that are two in one, as the two: what the planner knows can then be done with each."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from bncheck.folding.program.rebuilding import call_before, copied, rebuilt
from bncheck.graph.program.calls import Arguments, operator_name

_aten = torch.ops.aten
_INNER = {"addcmul": _aten.mul.Tensor, "addcdiv": _aten.div.Tensor}


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """The program with addcmul(a, b, c) as a + b * c."""
    if not any(_is_composite(node) for node in program.graph.nodes):
        return program
    graph = copied(program.graph)
    for node in [node for node in graph.nodes if _is_composite(node)]:
        a = Arguments(node)
        inner = call_before(node, _INNER[operator_name(node)], (a("tensor1"), a("tensor2")))
        total = call_before(node, _aten.add.Tensor, (a("self"), inner), alpha=a("value", 1))
        node.replace_all_uses_with(total)
        graph.erase_node(node)
    return rebuilt(program, graph)


def _is_composite(node: Node) -> bool:
    is_operator = isinstance(node.target, torch._ops.OpOverload)
    return is_operator and operator_name(node) in _INNER
