"""The floating dtypes of a program's values, and what rounding in them explains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from bncheck.folding.result import tolerance_for


def default_tolerance(program: ExportedProgram) -> float:
    """By the narrowest floating dtype of all values, inside regions such as autocast, too."""
    return tolerance_for(dtypes_of_program(program))


def dtypes_of_program(program: ExportedProgram) -> set[str]:
    """Those of all tensors and values."""
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, GraphModule)]
    values = [node.meta.get("val") for graph in graphs for node in graph.nodes]
    return names_of([*program.state_dict.values(), *values])


def dtypes_of_node(node: Node) -> set[str]:
    """Those of the floating values that a call makes."""
    made = node.meta.get("val")
    found = made if isinstance(made, (tuple, list)) else [made]
    return names_of(v for v in found if isinstance(v, torch.Tensor) and v.is_floating_point())


def dtypes_of_modules(modules: Iterable[nn.Module]) -> set[str]:
    """Those of their parameters."""
    return names_of(value for module in modules for value in module.parameters())


def names_of(values: Iterable[Any]) -> set[str]:
    """The dtypes of the tensors among these values, by name: float32."""
    tensors = (value for value in values if isinstance(value, torch.Tensor))
    return {str(tensor.dtype).removeprefix("torch.") for tensor in tensors}
