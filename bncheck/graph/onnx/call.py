"""A node of an ONNX graph as the tables of operators ask about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from bncheck.graph.dataflow import Shape
from bncheck.graph.onnx.scope import Scope
from bncheck.graph.operators import UndescribedError
from bncheck.graph.specs import Spec

#: A node seen as the planner sees it: what it does, and its inputs, the data before the weights.
Described = tuple[Spec, Sequence[str]]


class NodeCall:
    """A node and what is known of its inputs.

    Inputs are asked for by their place. What is not known raises UndescribedError.
    """

    def __init__(self, node: onnx.NodeProto, scope: Scope) -> None:
        self.node = node
        self.kind = str(node.op_type)
        self.opset = scope.opset
        self.inputs: Sequence[str] = list(node.input)
        self.results = [name for name in node.output if name]
        self.scope = scope
        self._attributes = {attribute.name: attribute for attribute in node.attribute}

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default where it is not given."""
        if name not in self._attributes:
            return default
        value = helper.get_attribute_value(self._attributes[name])
        return value.decode() if isinstance(value, bytes) else value

    def name(self, slot: int) -> str:
        """An input's name, "" where it is not given."""
        return self.inputs[slot] if slot < len(self.inputs) else ""

    def rank(self, slot: int = 0) -> int:
        """An input's rank; 0 where nothing is known."""
        return self.scope.rank(self.name(slot))

    def shape(self, slot: int = 0) -> Shape:
        """An input's shape, of one axis at least."""
        shape = self.scope.shape(self.name(slot))
        if not shape:
            raise UndescribedError
        return shape

    def numbers(self, slot: int, attribute: str = "") -> Any:
        """An input's numbers, or those of the attribute that older versions have in its stead.

        None where neither is given.
        """
        name = self.name(slot)
        if not name:
            return self.attribute(attribute) if attribute else None
        found = self.scope.fixed(name)
        if found is None:
            raise UndescribedError
        return found

    def integers(self, slot: int, attribute: str = "") -> list[int] | None:
        """The same where they must be whole numbers, as a list."""
        found = self.numbers(slot, attribute)
        if found is None:
            return None
        numbers = np.ravel(found)
        if numbers.size and numbers.dtype.kind not in "iu":
            raise UndescribedError
        return [int(number) for number in numbers]

    def axis(self, default: int) -> int:
        """The attribute `axis`, counted from the front."""
        return int(self.attribute("axis", default)) % len(self.shape())

    @property
    def gives_one(self) -> bool:
        """Whether of its results only the first is there, or read."""
        return self.scope.results(self.node) == [self.node.output[0]]

    @property
    def keeps_size(self) -> bool:
        """Whether windows are padded such that they keep the sizes (before their steps)."""
        return str(self.attribute("auto_pad", "NOTSET")).startswith("SAME")


Describe = Callable[[NodeCall], "Spec | Described | None"]
