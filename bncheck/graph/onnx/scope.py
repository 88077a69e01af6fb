"""The names of an ONNX graph: what their values are like, and the numbers of the fixed ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bncheck.graph.dataflow import Dim, Floats, Value
from bncheck.graph.onnx.nodes import FLOATS, STANDARD, dim_of
from bncheck.graph.onnx.sizes import followed

_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli",
           "Multinomial"}  # fmt: skip
#: Constant though its inputs are: a model that keeps small integers is to keep them.
_QUANTISED = {"DequantizeLinear"}


class Scope:
    """The names that a graph knows, with those of the graphs around it."""

    def __init__(self, proto: onnx.GraphProto, model: onnx.ModelProto, outer: Scope | None) -> None:
        self.opset = opset_of(model)
        self._model = model
        self.values: dict[str, Value] = dict(outer.values) if outer else {}
        self.numbers: dict[str, Callable[[], Any]] = dict(outer.numbers) if outer else {}
        self.sizes: dict[str, tuple[Dim, ...]] = dict(outer.sizes) if outer else {}
        # Before IR 4 every initialiser had to be listed as an input; since then, what is listed is
        # a default that the caller may replace.
        listed = {i.name for i in proto.input} if model.ir_version >= 4 else set()
        stored = {tensor.name for tensor in proto.initializer}
        self.overridable: set[str] = (outer.overridable if outer else set()) | (listed & stored)
        for info in (*proto.value_info, *proto.input, *proto.output):
            self.numbers.pop(info.name, None)  # a name of its own, whatever it means outside
            self._describe(info)
        for tensor in proto.initializer:
            shape = tuple(tensor.dims)
            if tensor.name not in self.overridable:
                self._fix(tensor.name, lambda t=tensor: numpy_helper.to_array(t))  # type: ignore[misc]
            dtype = FLOATS.get(tensor.data_type, "")
            value = self._value(tensor.name, shape, dtype)
            free = tensor.name in self.overridable
            self.values[tensor.name] = replace(value, overridable=free)

    def _describe(self, info: onnx.ValueInfoProto) -> None:
        kind = info.type.tensor_type
        shape: tuple[Dim, ...] | None = None
        if kind.HasField("shape"):
            shape = tuple(dim_of(d, f"?{info.name}.{i}") for i, d in enumerate(kind.shape.dim))
        self.values[info.name] = Value(info.name, shape, FLOATS.get(kind.elem_type, ""))

    def _fix(self, name: str, numbers: Callable[[], Any]) -> None:
        self.numbers[name] = lru_cache(maxsize=None)(numbers)

    def _value(self, name: str, shape: tuple[Dim, ...] | None, dtype: str) -> Value:
        numbers = self.numbers.get(name)
        if numbers is None:
            return Value(name, shape, dtype)

        def floats() -> Floats:
            return np.asarray(numbers()).astype(np.float64)

        return Value(name, shape, dtype, floats, name)

    def is_fixed(self, node: onnx.NodeProto) -> bool:
        """Whether a node's results are numbers that can be known now."""
        if node.op_type == "Constant" or self._sizes(node) is not None:
            return True
        inner = any(a.HasField("g") or a.graphs for a in node.attribute)
        return (
            not inner
            and node.domain in STANDARD  # others have no reference to compute them with
            and node.op_type not in _RANDOM | _QUANTISED
            and bool(node.input)
            and all(not name or name in self.numbers for name in node.input)
        )

    def _sizes(self, node: onnx.NodeProto) -> Any:
        """What a node reads off a shape, where these sizes are known; else None."""
        sizes = self.sizes.get(node.output[0]) if node.op_type in ("Shape", "Gather") else None
        if sizes is None or not all(isinstance(size, int) for size in sizes):
            return None
        numbers = np.array(sizes, dtype=np.int64)
        return (
            numbers
            if node.op_type == "Shape"
            else numbers.reshape(np.shape(self.fixed(node.input[1])))
        )

    def follow(self, node: onnx.NodeProto) -> None:
        """Keep the sizes that a node computes (sizes.py)."""
        sizes = followed(node, self)
        if sizes is not None:
            self.sizes[node.output[0]] = sizes

    def sizes_in(self, name: str) -> tuple[Dim, ...] | None:
        """The sizes that a value holds, be it fixed or followed."""
        if name in self.sizes:
            return self.sizes[name]
        numbers = self.fixed(name)
        if numbers is None or np.asarray(numbers).dtype.kind != "i" or np.size(numbers) > 64:
            return None
        return tuple(int(number) for number in np.ravel(numbers))

    def fix_outputs(self, node: onnx.NodeProto) -> None:
        """Keep a fixed node's results, computed when they are asked for."""
        results = lru_cache(maxsize=None)(lambda: self._run(node))
        for i, name in enumerate(node.output):
            self._fix(name, lambda i=i: results()[i])  # type: ignore[misc]
            known = self.values.get(name)
            shape, dtype = (known.shape, known.dtype) if known else (None, "")
            if shape is None or not all(isinstance(size, int) for size in shape):
                array = np.asarray(self.numbers[name]())
                shape, dtype = array.shape, array.dtype.name
            self.values[name] = self._value(name, shape, dtype)

    def _run(self, node: onnx.NodeProto) -> list[Any]:
        from onnx.reference import ReferenceEvaluator

        sizes = self._sizes(node)
        if sizes is not None:
            return [sizes]
        names = list(dict.fromkeys(name for name in node.input if name))
        inputs = [helper.make_empty_tensor_value_info(name) for name in names]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
        graph = helper.make_graph([node], "constant", inputs, outputs)
        model = helper.make_model(
            graph, opset_imports=self._model.opset_import, ir_version=max(self._model.ir_version, 4)
        )
        return list(
            ReferenceEvaluator(model).run(None, {name: self.numbers[name]() for name in names})
        )

    def minus_one(self, result: str) -> str:
        """A constant that no node holds, for the planner alone: what Neg multiplies with."""
        name, one = f"{result}:-1", np.asarray(-1.0)
        dtype = self.values[result].dtype
        self.values[name] = Value(name, (), dtype, lambda: one)
        return name

    def fixed(self, name: str) -> Any:
        """The numbers of a constant, None where it is none."""
        return self.numbers[name]() if name in self.numbers else None

    def is_stored(self, name: str) -> bool:
        """Whether a value has numbers, even ones that a caller may replace."""
        return name in self.numbers or name in self.overridable

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        """A value's shape, None where nothing is known."""
        value = self.values.get(name)
        return value.shape if value else None

    def rank(self, name: str) -> int:
        """A value's rank; 0 where nothing is known."""
        return len(self.shape(name) or ())


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators."""
    found = [o.version for o in model.opset_import if o.domain in STANDARD]
    return int(max(found, default=1))
