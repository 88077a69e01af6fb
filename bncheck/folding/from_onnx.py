"""An ONNX model as the planner's graphs: one for the model, one for each graph inside it.

An operation's name is its node's place in its graph. A value that a branch takes from the graph
around it is an input there, and so stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bncheck.folding.dataflow import (
    Conv,
    ConvTranspose,
    Dim,
    Floats,
    Graph,
    Linear,
    Norm,
    Op,
    Opaque,
    Spec,
    Value,
)
from bncheck.folding.einsum import einsum_spec
from bncheck.folding.onnx_algebra import elementwise, linear_algebra, norms
from bncheck.folding.onnx_calls import FLOATS, Attributes
from bncheck.folding.onnx_pooling import pooling
from bncheck.folding.onnx_views import views

_SAME_SHAPE = {"BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Identity",
               "Dropout", "Clip", "HardSigmoid", "HardSwish", "Elu"}  # fmt: skip
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli",
           "Multinomial"}  # fmt: skip
#: Constant though its inputs are: a model that keeps small integers is to keep them.
_QUANTISED = {"DequantizeLinear"}
_ROLES = (".running_mean", "/running_mean", "_running_mean", ".running_var", "/running_var",
          "_running_var", ".weight", "/weight", "_weight", ".bias")  # fmt: skip


class Scope:
    """A graph, what it may read of the graphs around it, and the planner's view of it."""

    def __init__(self, proto: onnx.GraphProto, model: onnx.ModelProto, outer: Scope | None) -> None:
        self.proto = proto
        self.outer = outer
        self.opset = opset_of(model)
        self._model = model
        self.values: dict[str, Value] = dict(outer.values) if outer else {}
        self.numbers: dict[str, Callable[[], Any]] = dict(outer.numbers) if outer else {}
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
        self.graph = self._read()

    def _describe(self, info: onnx.ValueInfoProto) -> None:
        kind = info.type.tensor_type
        shape: tuple[Dim, ...] | None = None
        if kind.HasField("shape"):
            shape = tuple(_dim(d, f"?{info.name}.{i}") for i, d in enumerate(kind.shape.dim))
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

    def _read(self) -> Graph:
        ops: list[Op] = []
        labels: dict[str, int] = {}
        for place, written in enumerate(self.proto.node):
            node = self._plain(written)
            if self._is_fixed(node):
                self._fix_outputs(node)
                continue
            for name in node.output:
                self.values.setdefault(name, Value(name, None, ""))
            self._complete(node)
            spec, given = describe(node, self)
            inputs = [name or None for name in (*given, *captured(node))]
            outputs = [name for name in node.output if name]
            label = self._label(node, spec)
            labels[label] = labels.get(label, 0) + 1
            ops.append(Op(str(place), spec, tuple(inputs), tuple(outputs), label, node.op_type))
        found = frozenset(o.name for o in self.proto.output)
        return Graph(tuple(ops), self.values, found)

    def _plain(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """CastLike as the Cast that it is: of its second input, only the dtype counts."""
        if node.op_type != "CastLike" or node.domain not in ("", "ai.onnx"):
            return node
        like = self.values.get(node.input[1])
        kind = next((k for k, name in FLOATS.items() if like and name == like.dtype), None)
        if kind is None:
            return node
        return helper.make_node("Cast", node.input[:1], node.output, node.name, to=kind)

    def _complete(self, node: onnx.NodeProto) -> None:
        """Rank and channels where onnx lost them behind a computed reshape: a weight tells them."""
        if not node.output or self.shape(node.output[0]) is not None:
            return
        source = self.values.get(node.input[0]) if node.input else None
        shape: tuple[Dim, ...] | None = None
        if node.op_type in ("Conv", "ConvTranspose"):
            weight = self.shape(node.input[1])
            if weight:
                group = Attributes(node)("group", 1)
                wide = weight[1] if isinstance(weight[1], int) else 0
                channels = weight[0] if node.op_type == "Conv" else wide * group
                rest = tuple(f"?{node.output[0]}.{i}" for i in range(2, len(weight)))
                shape = (f"?{node.output[0]}.0", channels, *rest)
        elif node.op_type in _SAME_SHAPE and source is not None:
            shape = source.shape
        weighs = node.op_type in ("Conv", "ConvTranspose") and node.input[1] in self.values
        known = self.values[node.input[1]] if weighs else source
        if shape is not None and known is not None:
            name = node.output[0]
            self.values[name] = Value(name, shape, self.values[name].dtype or known.dtype)

    def _is_fixed(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "Constant":
            return True
        inner = any(a.HasField("g") or a.graphs for a in node.attribute)
        return (
            not inner
            and node.domain in ("", "ai.onnx")  # others have no reference to compute them with
            and node.op_type not in _RANDOM | _QUANTISED
            and bool(node.input)
            and all(not name or name in self.numbers for name in node.input)
        )

    def _fix_outputs(self, node: onnx.NodeProto) -> None:
        results = lru_cache(maxsize=None)(lambda: self._run(node))
        for i, name in enumerate(node.output):
            self._fix(name, lambda i=i: results()[i])  # type: ignore[misc]
            known = self.values.get(name)
            shape, dtype = (known.shape, known.dtype) if known else (None, "")
            if shape is None:
                array = np.asarray(self.numbers[name]())
                shape, dtype = array.shape, array.dtype.name
            self.values[name] = self._value(name, shape, dtype)

    def _run(self, node: onnx.NodeProto) -> list[Any]:
        from onnx.reference import ReferenceEvaluator

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

    def _label(self, node: onnx.NodeProto, spec: Spec) -> str:
        slots = (3, 1) if isinstance(spec, Norm) else (1,)
        if isinstance(spec, (Norm, Conv, ConvTranspose, Linear)):
            for slot in slots:
                name = node.input[slot] if len(node.input) > slot else ""
                for role in _ROLES:
                    if name.endswith(role) and len(name) > len(role):
                        return name[: -len(role)]
        return node.name or next((n for n in node.output if n), node.op_type)

    def minus_one(self, result: str) -> str:
        """A constant that no node holds, for the planner alone: what Neg multiplies with."""
        name, one = f"{result}:-1", np.asarray(-1.0)
        dtype = self.values[result].dtype
        self.values[name] = Value(name, (), dtype, lambda: one)
        return name

    def fixed(self, name: str) -> Any:
        """The numbers of a constant, None where it is none."""
        return self.numbers[name]() if name in self.numbers else None

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        """A value's shape, None where nothing is known."""
        value = self.values.get(name)
        return value.shape if value else None

    def rank(self, name: str) -> int:
        """A value's rank; 0 where nothing is known."""
        return len(self.shape(name) or ())


def read_model(model: onnx.ModelProto) -> list[Scope]:
    """The model's graph and all inside it, outer ones first; shapes are inferred on a copy."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # an operator that it does not know: what has no shape is not folded
        inferred = model
    return list(_scopes(model.graph, inferred.graph, model, None))


def _scopes(
    proto: onnx.GraphProto, known: onnx.GraphProto, model: onnx.ModelProto, outer: Scope | None
) -> Iterator[Scope]:
    described = onnx.GraphProto()
    described.CopyFrom(known)
    scope = Scope(described, model, outer)
    scope.proto = proto  # the user's own, without inferred shapes
    yield scope
    for node, twin in zip(proto.node, known.node, strict=True):
        for mine, other in zip(node.attribute, twin.attribute, strict=True):
            pairs = [(mine.g, other.g)] if mine.HasField("g") else []
            pairs += list(zip(mine.graphs, other.graphs, strict=True))
            for inner, its_twin in pairs:
                yield from _scopes(inner, its_twin, model, scope)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators."""
    found = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return int(max(found, default=1))


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


def _dim(dim: Any, unknown: str) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) if dim.dim_param else unknown


def describe(node: onnx.NodeProto, scope: Scope) -> tuple[Spec, list[str]]:
    """What a node is to the planner, and its inputs, the data before the weights."""
    given = list(node.input)
    if node.domain not in ("", "ai.onnx"):
        return Opaque(node.op_type), given
    attributes = Attributes(node)
    for family in (linear_algebra, norms, elementwise, views, pooling):
        spec = family(node, scope, attributes)
        if spec is not None:
            return spec, _data_first(node, spec, scope)
    return Opaque(node.op_type), given


def _data_first(node: onnx.NodeProto, spec: Spec, scope: Scope) -> list[str]:
    given = list(node.input)
    if node.op_type == "Neg":
        return [*given, scope.minus_one(node.output[0])]
    if isinstance(spec, Linear) and node.op_type in ("MatMul", "Einsum"):
        matrix_first = scope.rank(given[0]) == 2 and spec.axes != (-1, -1)
        if matrix_first and spec != einsum_spec(str(Attributes(node)("equation", "")), 1):
            return given[::-1]
    return given


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
