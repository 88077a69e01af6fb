"""What a node of an ONNX graph is: its attributes, the dtypes by their number."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper

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
