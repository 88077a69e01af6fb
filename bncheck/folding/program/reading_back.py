"""Whether a file holds what was proven: node by node, and bit by bit.

A fold is proven in memory. What is written of it is read back once, before it gets its name.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from bncheck.graph.program.calls import Arguments

_MISSING: Final = object()


def is_same_program(read: ExportedProgram, proven: ExportedProgram) -> bool:
    """Whether both make the same calls in the same order, with the same numbers."""
    return (
        list(_calls(read.graph_module)) == list(_calls(proven.graph_module))
        and str(read.graph_signature) == str(proven.graph_signature)
        and _same_tensors(read.state_dict, proven.state_dict)
        and _same_tensors(read.constants, proven.constants)
    )


def _same_tensors(read: Mapping[str, Any], proven: Mapping[str, Any]) -> bool:
    """Under the same names; what is not a tensor is left out."""
    return read.keys() == proven.keys() and all(
        same_bits(read[name], value)
        for name, value in proven.items()
        if isinstance(value, torch.Tensor)
    )


def same_bits(one: Any, other: torch.Tensor) -> bool:
    """Whether both are the same numbers, -0 and NaN among them, of one dtype and shape."""
    if not isinstance(one, torch.Tensor) or one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(_bits(one), _bits(other))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _calls(module: GraphModule) -> Iterator[tuple[object, ...]]:
    """The calls of a graph, in which values are named by their places.

    Names of graphs inside it and results that nobody reads are torch's to choose.
    """
    places: dict[Node, int] = {}
    for node in module.graph.nodes:
        if node.target is operator.getitem and not node.users:
            continue
        given = Arguments(node)
        named = {k: v for k, v in given.given.items() if v != given.defaults.get(k, _MISSING)}
        unnamed = () if isinstance(node.target, torch._ops.OpOverload) else node.args
        yield node.op, _target(module, node), _plain(unnamed, places), _plain(named, places)
        places[node] = len(places)


def _target(module: GraphModule, node: Node) -> object:
    if node.op != "get_attr":
        return str(node.target)
    found = operator.attrgetter(str(node.target))(module)
    return list(_calls(found)) if isinstance(found, GraphModule) else str(node.target)


def _plain(item: Any, places: Mapping[Node, int]) -> object:
    """Arguments in which a node is its place; torch makes lists of some tuples."""
    if isinstance(item, Node):
        return places[item]
    if isinstance(item, (tuple, list)):
        return [_plain(each, places) for each in item]
    if isinstance(item, Mapping):
        return {key: _plain(each, places) for key, each in item.items()}
    return repr(item)
