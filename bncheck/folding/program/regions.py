"""Graphs inside an exported graph that only switch gradients: they become part of the one around.

`with torch.no_grad():` around a frozen backbone would otherwise hide all its normalisations.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from bncheck.folding.program.rebuilding import copied, rebuilt


def inlined(program: ExportedProgram) -> ExportedProgram:
    """The program without `wrap_with_set_grad_enabled`, which changes no value of an inference."""
    if not any(_switches_gradients(node) for node in program.graph.nodes):
        return program
    graph = copied(program.graph)
    # A region may hold others; they come to light behind the node that held them.
    while (region := next(filter(_switches_gradients, graph.nodes), None)) is not None:
        _inline(graph, region, program.graph_module)
    return rebuilt(program, graph)


def _switches_gradients(node: Node) -> bool:
    # By name: torch has no public one for the operator.
    return node.op == "call_function" and str(node.target) == "wrap_with_set_grad_enabled"


def _inline(graph: Graph, region: Node, root: GraphModule) -> None:
    _, holder, *given = region.args
    assert isinstance(holder, Node)
    inner = root.get_submodule(str(holder.target))
    assert isinstance(inner, GraphModule)
    inputs = [node for node in inner.graph.nodes if node.op == "placeholder"]
    values = dict(zip(inputs, given, strict=True))
    with graph.inserting_before(region):
        for node in inner.graph.nodes:
            if node.op not in ("placeholder", "output"):
                values[node] = graph.node_copy(node, lambda n: values[n])
                if node.op == "get_attr":
                    values[node].target = f"{holder.target}.{node.target}"
    results = torch.fx.map_arg(inner.graph.output_node().args[0], lambda n: values[n])
    assert isinstance(results, Sequence)
    for user in list(region.users):
        assert user.target is operator.getitem
        user.replace_all_uses_with(results[user.args[1]])  # type: ignore[arg-type,index]
        graph.erase_node(user)
    graph.erase_node(region)
    if not holder.users:
        graph.erase_node(holder)
