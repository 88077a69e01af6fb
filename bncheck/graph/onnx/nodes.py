"""What a node of an ONNX graph is: its attributes, what it reads; the dtypes by their number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from bncheck.graph.dataflow import Dim, Shape
from bncheck.graph.operators import UndescribedError
from bncheck.graph.specs import Spec
from bncheck.reading.onnx_norms import STANDARD

if TYPE_CHECKING:
    from bncheck.graph.onnx.scope import Scope

#: The floating dtypes of ONNX by number.
FLOATS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}
#: A node seen as the planner sees it: what it does, and its inputs, the data before the weights.
Described = tuple[Spec, Sequence[str]]


class Call:
    """A node as the tables of operators are asked about it.

    Its inputs are asked for by their place. What is not known raises UndescribedError.
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
    def keeps_size(self) -> bool:
        """Whether windows are padded such that they keep the sizes (before their steps)."""
        return str(self.attribute("auto_pad", "NOTSET")).startswith("SAME")


@dataclass(frozen=True, slots=True)
class _Form:
    """What the schema of an operator asks for: so many inputs, results, and typed attributes."""

    inputs: int
    outputs: int
    types: Mapping[str, int]
    required: frozenset[str]


def is_whole(node: onnx.NodeProto, opset: int) -> bool:
    """Whether a node is a standard one and has what it must have, in the right types."""
    form = _form(node.op_type, opset) if node.domain in STANDARD else None
    if form is None or len(node.input) < form.inputs or len(node.output) < form.outputs:
        return False
    given = {attribute.name: attribute.type for attribute in node.attribute}
    fits = all(form.types.get(name, kind) == kind for name, kind in given.items())
    return fits and form.required <= given.keys()


@lru_cache(maxsize=1024)
def _form(kind: str, opset: int) -> _Form | None:
    try:
        schema = onnx.defs.get_schema(kind, opset, "")
    except (onnx.defs.SchemaError, TypeError):
        return None
    attributes = schema.attributes.items()
    types = {name: attribute.type.value for name, attribute in attributes}  # type: ignore[attr-defined]
    required = frozenset(name for name, attribute in attributes if attribute.required)
    return _Form(schema.min_input, schema.min_output, types, required)


Describe = Callable[[Call], "Spec | Described | None"]


def captured(node: onnx.NodeProto) -> list[str]:
    """What the graphs inside a node read of the graphs around it."""
    found: list[str] = []
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            own = {i.name for i in graph.input} | {t.name for t in graph.initializer}
            own |= {name for inner in graph.node for name in inner.output}
            reads = [name for inner in graph.node for name in (*inner.input, *captured(inner))]
            reads += [output.name for output in graph.output]
            found += [name for name in reads if name and name not in own]
    return found


def names_in(graph: onnx.GraphProto) -> Mapping[str, int]:
    """How often each value is read in a graph and in those inside it."""
    found: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            found[name] = found.get(name, 0) + 1
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.HasField("g") else []
            for other in [*inner, *attribute.graphs]:
                for name, number in names_in(other).items():
                    found[name] = found.get(name, 0) + number
    for output in graph.output:
        found[output.name] = found.get(output.name, 0) + 1
    return found


def dim_of(dim: Any, unknown: str) -> Dim:
    """A size, or its name, or the name that it gets here."""
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) if dim.dim_param else unknown
