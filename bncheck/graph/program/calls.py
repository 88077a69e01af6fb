"""What a call of an exported graph is: its operator, its arguments by name, its result's shape."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from bncheck.core.limits import MAX_MADE_NUMBERS
from bncheck.graph.dataflow import Shape, Spec

#: A call seen as the planner sees it: what it does, and which arguments are its inputs.
Described = tuple[Spec, tuple[Any, ...]]


#: What makes numbers of nothing but sizes.
_FACTORIES = {"arange", "eye", "full", "linspace", "logspace", "ones", "scalar_tensor", "tri",
              "tril_indices", "triu_indices", "zeros"}  # fmt: skip
_FILLINGS = {"new_zeros": 0, "new_ones": 1, "new_full": None, "zeros_like": 0, "ones_like": 1,
             "full_like": None}  # fmt: skip


class Arguments:
    """A call's arguments by the names of its schema, defaults included."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.given = dict(node.kwargs)
        self.defaults: dict[str, Any] = {}
        if isinstance(node.target, torch._ops.OpOverload):
            schema = node.target._schema.arguments
            for argument, value in zip(schema, node.args, strict=False):
                self.given[argument.name] = value
            self.defaults = {a.name: a.default_value for a in schema if a.has_default_value()}

    def __call__(self, name: str, default: Any = None) -> Any:
        """An argument as it was given, or by default."""
        if name in self.given:
            return self.given[name]
        return self.defaults.get(name, default)

    def first(self, *names: str) -> Any:
        """The first of these arguments that is given."""
        return next((self(name) for name in names if self(name) is not None), None)


def operator_name(node: Node) -> str:
    """aten.conv2d.default -> conv2d."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name).partition("::")[2]
    return getattr(target, "__name__", str(target))


def shape_and_dtype(value: Any) -> tuple[Shape | None, str]:
    """Of a tensor, or of the first of several results."""
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    if not isinstance(value, torch.Tensor):
        return None, ""
    shape = tuple(
        size if isinstance(size, int) else str(size.node.expr).replace(" ", "")
        for size in value.shape
    )
    return shape, str(value.dtype).removeprefix("torch.")


def module_path(node: Node) -> str:
    """The path of the innermost module that made a call, "" for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    for key, (path, _) in reversed(stack.items()):
        if not key.startswith("_empty"):
            return str(path).removeprefix("L['self'].").removeprefix("L['self']")
    return ""


def rank_of(node: Any) -> int:
    """The rank of the tensor that a node makes, 0 for anything else."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    return value.dim() if isinstance(value, torch.Tensor) else 0


def sizes_of(value: Any, number: int) -> tuple[int, ...]:
    """A size for each of so many axes, from one for all or one each."""
    items = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return items * number if len(items) == 1 else items


def filled(node: Node, name: str) -> torch.Tensor | None:
    """The numbers of y.new_full(sizes, number) and the like: they are the same whatever y is."""
    value = node.meta.get("val")
    if name not in _FILLINGS or not isinstance(value, torch.Tensor):
        return None
    number = _FILLINGS[name]
    if number is None:
        number = Arguments(node)("fill_value")
    if not isinstance(number, (int, float)) or not _is_small(value):
        return None
    return torch.full((), number, dtype=value.dtype).expand(value.shape)


def is_made(node: Node, name: str) -> bool:
    """Whether a call makes numbers of nothing but known sizes."""
    value = node.meta.get("val")
    given = node.all_input_nodes
    return name in _FACTORIES and not given and isinstance(value, torch.Tensor) and _is_small(value)


def _is_small(value: torch.Tensor) -> bool:
    """Not so large that a few bytes of a file would fill the memory."""
    sizes = [size for size in value.shape if isinstance(size, int)]
    return len(sizes) == value.dim() and math.prod(sizes) <= MAX_MADE_NUMBERS
