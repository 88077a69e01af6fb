"""What a node of an ONNX graph is: its attributes, what it reads; the dtypes by their number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import onnx

from bncheck.graph.dataflow import Dim
from bncheck.reading.onnx_names import STANDARD

#: The floating dtypes of ONNX by number.
FLOATS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}


@dataclass(frozen=True, slots=True)
class _Form:
    """What the schema of an operator asks for: the numbers of inputs and results, and typed
    attributes."""

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
    """A size, or its name, or the name that it gets here. Converters write -1 for a free one."""
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    return str(dim.dim_param) if dim.dim_param else unknown
