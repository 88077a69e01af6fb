"""What a call of an exported graph is: its operator, its arguments by name, its result's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from bncheck.graph.aten.calls import Call
from bncheck.graph.dataflow import Dim, Shape
from bncheck.graph.operators import UndescribedError

#: Calls that keep the rows of their source as long as the last axis keeps its size.
_SAME_ROWS = frozenset({
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand",
    "clone", "contiguous", "to", "_to_copy", "alias", "detach",
})  # fmt: skip
_REPEATING = frozenset({"expand", "expand_copy", "broadcast_to", "expand_as"})


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


class ProgramCall(Arguments, Call):
    """A call as the tables of operators are asked about it: its tensors are nodes.

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
    def results(self) -> Sequence[Any]:
        """What torch knows of its results, without their numbers."""
        value = self.node.meta["val"]
        return value if isinstance(value, (list, tuple)) else [value]

    def is_tensor(self, item: Any) -> bool:
        """Whether it is a node that makes one, or a result."""
        return isinstance(_known(item), torch.Tensor)

    def sizes(self, item: Any) -> Sequence[Any]:
        """A tensor's, in torch's own types."""
        value = _known(item)
        if not isinstance(value, torch.Tensor):
            raise UndescribedError
        return value.shape

    def named_sizes(self, item: Any) -> Shape | None:
        """The same as numbers and names."""
        return shape_and_dtype(_known(item))[0]

    def size(self, name: str) -> Dim:
        """A number, or what torch calls it."""
        value = _known(self(name))
        return _named(value) if isinstance(value, torch.SymInt) else self.whole(name)

    def dtype(self, item: Any) -> str:
        """A tensor's."""
        return shape_and_dtype(_known(item))[1]

    def is_fixed(self, item: Any) -> bool:
        """Whether a node's numbers are."""
        return item in self.constants

    def rises(self, item: Any, end: Dim) -> bool:
        """Also for arange(0, end, step), whose `end` may have a name."""
        if isinstance(item, Node) and operator_name(item) == "arange":
            made = ProgramCall(item, self.constants)
            last = made("end")
            start, step = made("start", 0), made("step", 1)
            steps = isinstance(step, int) and step > 0
            return start == 0 and steps and last is not None and made.size("end") == end
        return super().rises(item, end)

    def stride_of(self, item: Any, end: Dim) -> int | None:
        """Also for arange(0, end, step) where the step divides whatever `end` may be."""
        if not (isinstance(item, Node) and operator_name(item) == "arange"):
            return super().stride_of(item, end)
        made = ProgramCall(item, self.constants)
        last, step = _known(made("end")), made("step", 1)
        size = last.node.expr if isinstance(last, torch.SymInt) else last
        return step if self.rises(item, end) and size % step == 0 else None

    def shares(self, item: Any) -> bool:
        """A softmax over the last axis, also behind calls that keep its rows."""
        if not isinstance(item, Node) or not self.rank_of(item):
            return False
        made = ProgramCall(item, self.constants)
        if made.name in ("softmax", "_softmax"):
            return made.axis() == made.rank - 1
        rows = made.name in _SAME_ROWS and self.sizes(item)[-1] == made.shape[-1]
        return rows and self.dtype(item) == self.dtype(made.source) and self.shares(made.source)

    def numbers(self, item: Any) -> torch.Tensor | None:
        """Those of a fixed node, in a dtype that numpy has."""
        found = self.constants.get(item)
        if found is None:
            return None
        wide = torch.float64 if found.is_floating_point() else found.dtype
        return found.detach().to(device="cpu", dtype=wide)

    def repeated(self, item: Any) -> torch.Tensor | None:
        """Also behind a call that repeats them."""
        if isinstance(item, Node) and operator_name(item) in _REPEATING:
            item = item.args[0]
        return self.numbers(item)


def _known(item: Any) -> Any:
    return item.meta.get("val") if isinstance(item, Node) else item


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
    shape = tuple(size if isinstance(size, int) else _named(size) for size in value.shape)
    return shape, str(value.dtype).removeprefix("torch.")


def _named(size: Any) -> str:
    return str(size.node.expr).replace(" ", "")


def module_path(node: Node) -> str:
    """The path of the innermost module that made a call, "" for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    for key, (path, _) in reversed(stack.items()):
        if not key.startswith("_empty"):
            return str(path).removeprefix("L['self'].").removeprefix("L['self']")
    return ""
