"""What is known of a model while its calls are written anew, and a call that can be changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from bncheck.graph.onnx.light import with_shapes
from bncheck.reading.onnx_file import graphs_of

#: An operator, its inputs and its attributes.
Step: TypeAlias = tuple[str, Sequence[str], dict[str, Any]]


class TooOldError(Exception):
    """The operator, and what the opset lacks for it."""


@dataclass
class Call:
    """A node with its attributes as Python values."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    settings: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    @classmethod
    def of(cls, node: onnx.NodeProto) -> Call:
        """A copy of a node."""
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return cls(node.op_type, list(node.input), list(node.output), settings, node.name)

    def node(self) -> onnx.NodeProto:
        """As a node, without empty names at the end of its inputs."""
        inputs = list(self.inputs)
        while inputs and not inputs[-1]:
            inputs.pop()
        return helper.make_node(self.kind, inputs, self.outputs, self.name, **self.settings)

    def given(self, place: int) -> str:
        """The name of an input; empty where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else ""


class Scope:
    """Numbers, shapes and dtypes of a model's values, by name; and names for new ones."""

    def __init__(self, model: onnx.ModelProto, wanted: int) -> None:
        self.wanted = wanted
        self.new: list[onnx.TensorProto] = []
        known = with_shapes(model).graph
        self._infos = {
            info.name: info.type.tensor_type
            for graph in graphs_of(known)
            for info in (*graph.input, *graph.value_info, *graph.output)
        }
        self._tensors = {t.name: t for graph in graphs_of(model.graph) for t in graph.initializer}
        for graph in graphs_of(model.graph):
            for node in graph.node:
                for attribute in node.attribute:
                    if node.op_type == "Constant" and attribute.name == "value":
                        self._tensors[node.output[0]] = attribute.t
        self._number = 0

    def constant(self, name: str) -> NDArray[Any] | None:
        """The numbers of a stored value."""
        found = self._tensors.get(name)
        return None if found is None else numpy_helper.to_array(found)

    def numbers(self, call: Call, place: int) -> list[int] | None:
        """An input of whole numbers; None where it is left out. Raises TooOldError if computed."""
        name = call.given(place)
        if not name:
            return None
        found = self.constant(name)
        if found is None:
            raise TooOldError(f"{call.kind} takes its numbers from a computation")
        return [int(number) for number in np.ravel(found)]

    def shape(self, name: str) -> list[int | None] | None:
        """Sizes, None where they are free."""
        if name in self._tensors:
            return list(self._tensors[name].dims)
        kind = self._infos.get(name)
        if kind is None or not kind.HasField("shape"):
            return None
        return [int(d.dim_value) if d.HasField("dim_value") else None for d in kind.shape.dim]

    def rank(self, call: Call, place: int = 0) -> int:
        """The rank of an input. Raises TooOldError where it is not known."""
        shape = self.shape(call.given(place))
        if shape is None:
            raise TooOldError(f"{call.kind} of a value whose rank is not known")
        return len(shape)

    def dtype(self, name: str) -> int:
        """ONNX' number for the dtype of a value; 0 where it is not known."""
        if name in self._tensors:
            return int(self._tensors[name].data_type)
        return int(self._infos[name].elem_type) if name in self._infos else 0

    def is_float(self, name: str) -> bool:
        """Whether its dtype is a floating one, or not known."""
        kind = self.dtype(name)
        return not kind or np.issubdtype(helper.tensor_dtype_to_np_dtype(kind), np.floating)

    def add(self, numbers: Any, dtype: Any = np.int64) -> str:
        """A stored value of its own."""
        name = self.fresh()
        tensor = numpy_helper.from_array(np.asarray(numbers, dtype), name)
        self.new.append(tensor)
        self._tensors[name] = tensor
        return name

    def like(self, number: float, name: str) -> str:
        """A number in the dtype of a value. Raises TooOldError where that is not known."""
        kind = self.dtype(name)
        if not kind:
            raise TooOldError("a value whose dtype is not known")
        return self.add(number, helper.tensor_dtype_to_np_dtype(kind))

    def fresh(self) -> str:
        """A name that nothing has."""
        self._number += 1
        name = f"older_{self._number}"
        return name if name not in self._infos and name not in self._tensors else self.fresh()

    def chain(self, *steps: Step, result: str) -> list[Call]:
        """Calls of which each takes the result of the one before where a name is `_`."""
        calls: list[Call] = []
        last = ""
        for place, (kind, names, settings) in enumerate(steps):
            made = result if place == len(steps) - 1 else self.fresh()
            inputs = [last if name == "_" else name for name in names]
            calls.append(Call(kind, inputs, [made], settings))
            last = made
        return calls
