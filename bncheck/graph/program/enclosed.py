"""Normalisations in the graphs that calls such as torch.cond get as arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from bncheck.graph.aten.norms import BATCH_NORMS
from bncheck.graph.dataflow import Enclosed
from bncheck.graph.program.calls import module_path, operator_name

_NORMS = {*BATCH_NORMS, "instance_norm"}


def enclosed(module: GraphModule, labels: Mapping[str, str]) -> Iterator[Enclosed]:
    """All of them, at any depth; `labels` are the names of the graph's parameters in the model."""
    for node in module.graph.nodes:
        if node.op == "call_function" and not isinstance(node.target, torch._ops.OpOverload):
            for inner in _graphs(module, node):
                known = _labels_inside(node, inner, labels)
                yield from _norms(inner, known, operator_name(node))
                yield from enclosed(inner, known)


def _graphs(module: GraphModule, node: Node) -> Iterator[GraphModule]:
    for source in node.all_input_nodes:
        found = getattr(module, str(source.target), None) if source.op == "get_attr" else None
        if isinstance(found, GraphModule):
            yield found


def _labels_inside(node: Node, inner: GraphModule, labels: Mapping[str, str]) -> dict[str, str]:
    """The last arguments are the inner graph's inputs, in their order."""
    leaves = pytree.tree_leaves((node.args, node.kwargs))
    given = [leaf for leaf in leaves if isinstance(leaf, Node) and leaf.op != "get_attr"]
    holders = [holder for holder in inner.graph.nodes if holder.op == "placeholder"]
    pairs = zip(reversed(holders), reversed(given), strict=False)
    return {holder.name: labels[value.name] for holder, value in pairs if value.name in labels}


def _norms(inner: GraphModule, labels: Mapping[str, str], where: str) -> Iterator[Enclosed]:
    for node in inner.graph.nodes:
        if node.op == "call_function" and operator_name(node) in _NORMS:
            label = owner(node, labels) or module_path(node) or node.name
            yield Enclosed(label, operator_name(node), where)


def owner(node: Node, labels: Mapping[str, str]) -> str:
    """The module that holds a normalisation's parameters."""
    names = [labels.get(n.name, "") for n in node.args[1:5] if isinstance(n, Node)]
    return next((found for name in names if (found := name.rpartition(".")[0])), "")
