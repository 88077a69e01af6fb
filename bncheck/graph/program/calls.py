"""What a call of an exported graph is: its operator, its arguments by name, its result's shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from bncheck.graph.dataflow import Shape
from bncheck.graph.operators import UndescribedError
from bncheck.graph.specs import Spec

#: A call seen as the planner sees it: what it does, and which arguments are its inputs.
Described = tuple[Spec, tuple[Any, ...]]
#: What an operator is to the planner; None for a call of it that has no description.
Describe = Callable[["ProgramCall"], Described | None]


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


class ProgramCall(Arguments):
    """A call as the tables of operators are asked about it.

    `constants` has the numbers of the nodes that have fixed ones.
    """

    def __init__(self, node: Node, constants: Mapping[Node, torch.Tensor]) -> None:
        super().__init__(node)
        self.name = operator_name(node)
        self.constants = constants

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments that were given by their place."""
        return self.node.args

    @property
    def source(self) -> Any:
        """The first argument, which nearly always is the data."""
        return self.args[0] if self.args else None

    @property
    def rank(self) -> int:
        """The rank of the source."""
        return rank_of(self.source)

    @property
    def shape(self) -> Sequence[Any]:
        """The sizes of the source, in torch's own types."""
        if not self.rank:
            raise UndescribedError
        sizes: Sequence[Any] = self.source.meta["val"].shape
        return sizes

    def last(self, number: int) -> tuple[int, ...]:
        """The last `number` axes of the source."""
        return tuple(range(self.rank - number, self.rank))

    def axis(self, name: str = "dim", axes: int = 0) -> int:
        """An axis of the source, or of a result of that rank."""
        return self.whole(name, 0) % (axes or len(self.shape))

    def number(self, name: str, default: Any = None) -> int | float:
        """An argument that is a number."""
        value = self(name, default)
        if not isinstance(value, (int, float)):
            raise UndescribedError
        return value

    def whole(self, name: str, default: Any = None) -> int:
        """An argument that is a whole number."""
        value = self(name, default)
        if not isinstance(value, int):
            raise UndescribedError
        return value

    def on_source(self, spec: Spec | None) -> Described | None:
        """With the source as its only input."""
        return None if spec is None else (spec, (self.source,))


def named(describe: Describe, names: str) -> dict[str, Describe]:
    """Rows of a table of operators: all of these names have one description."""
    return dict.fromkeys(names.split(), describe)


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
