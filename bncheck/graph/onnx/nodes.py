"""What a node of an ONNX graph is: its attributes, what it reads; the dtypes by their number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import helper

from bncheck.graph.dataflow import Dim

#: The floating dtypes of ONNX by number.
FLOATS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}
#: What a family of operators takes a node for, and its inputs: the data first, then the weights.
Described = tuple[Any, list[str]]


class Attributes:
    """A node's attributes by name."""

    def __init__(self, node: onnx.NodeProto) -> None:
        self._given = {a.name: a for a in node.attribute}

    def __call__(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default where it is not given."""
        if name not in self._given:
            return default
        value = helper.get_attribute_value(self._given[name])
        return value.decode() if isinstance(value, bytes) else value


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
