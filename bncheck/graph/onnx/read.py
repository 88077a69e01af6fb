"""An ONNX model as the planner's graphs: one for the model, one for each graph inside it.

An operation's name is its node's place in its graph. A value that a branch takes from the graph
around it is an input there, and so stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx
from onnx import helper

from bncheck.graph.dataflow import (
    Conv,
    ConvTranspose,
    Dim,
    Graph,
    Linear,
    Lookup,
    Norm,
    Op,
    Opaque,
    Spec,
    Value,
)
from bncheck.graph.einsum import einsum_spec
from bncheck.graph.onnx.algebra import elementwise, linear_algebra, norms
from bncheck.graph.onnx.nodes import FLOATS, Attributes, captured
from bncheck.graph.onnx.pooling import pooling
from bncheck.graph.onnx.scope import Scope
from bncheck.graph.onnx.sizes import shape_of
from bncheck.graph.onnx.views import views
from bncheck.reading.onnx_constants import STANDARD
from bncheck.reading.onnx_norms import layer_name, owner

_SAME_SHAPE = {"BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Identity",
               "Dropout", "Clip", "HardSigmoid", "HardSwish", "Elu"}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A graph of the model: as it is written, and as the planner sees it."""

    proto: onnx.GraphProto
    graph: Graph


def read_model(model: onnx.ModelProto) -> list[Part]:
    """The model's graph and all inside it, outer ones first; shapes are inferred on a copy."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # an operator that it does not know: what has no shape is not folded
        inferred = onnx.ModelProto()
        inferred.CopyFrom(model)
    return list(_parts(model.graph, inferred.graph, model, None))


def _parts(
    proto: onnx.GraphProto, known: onnx.GraphProto, model: onnx.ModelProto, outer: Scope | None
) -> Iterator[Part]:
    scope = Scope(known, model, outer)
    what = "model" if outer is None else "inner graph"
    yield Part(proto, _read(known, scope, what))
    for node, twin in zip(proto.node, known.node, strict=True):
        for mine, other in zip(node.attribute, twin.attribute, strict=True):
            pairs = [(mine.g, other.g)] if mine.HasField("g") else []
            pairs += list(zip(mine.graphs, other.graphs, strict=True))
            for inner, its_twin in pairs:
                yield from _parts(inner, its_twin, model, scope)


def _read(proto: onnx.GraphProto, scope: Scope, what: str) -> Graph:
    ops: list[Op] = []
    for place, written in enumerate(proto.node):
        node = _plain(written, scope)
        scope.follow(node)
        if scope.fix(node):
            continue
        for name in node.output:
            scope.values.setdefault(name, Value(name, None, ""))
        _complete(node, scope)
        spec, given = _describe(node, scope)
        inputs = [name or None for name in (*given, *captured(node))]
        outputs = [name for name in node.output if name]
        label = _label(node, spec, scope)
        ops.append(Op(str(place), spec, tuple(inputs), tuple(outputs), label, node.op_type))
    found = frozenset(o.name for o in proto.output)
    return Graph(tuple(ops), scope.values, found, what=what)


def _plain(node: onnx.NodeProto, scope: Scope) -> onnx.NodeProto:
    """CastLike as the Cast that it is: of its second input, only the dtype counts."""
    if node.op_type != "CastLike" or node.domain not in STANDARD:
        return node
    like = scope.values.get(node.input[1])
    kind = next((k for k, name in FLOATS.items() if like and name == like.dtype), None)
    if kind is None:
        return node
    return helper.make_node("Cast", node.input[:1], node.output, node.name, to=kind)


def _complete(node: onnx.NodeProto, scope: Scope) -> None:
    """Rank and channels where onnx lost them behind a computed reshape: a weight tells them."""
    if not node.output:
        return
    known = shape_of(node, scope)
    if known is not None:
        scope.values[node.output[0]] = replace(scope.values[node.output[0]], shape=known)
    if scope.shape(node.output[0]) is not None:
        return
    source = scope.values.get(node.input[0]) if node.input else None
    shape: tuple[Dim, ...] | None = None
    if node.op_type in ("Conv", "ConvTranspose"):
        weight = scope.shape(node.input[1])
        if weight:
            group = Attributes(node)("group", 1)
            wide = weight[1] if isinstance(weight[1], int) else 0
            channels = weight[0] if node.op_type == "Conv" else wide * group
            rest = tuple(f"?{node.output[0]}.{i}" for i in range(2, len(weight)))
            shape = (f"?{node.output[0]}.0", channels, *rest)
    elif node.op_type in _SAME_SHAPE and source is not None:
        shape = source.shape
    weighs = node.op_type in ("Conv", "ConvTranspose") and node.input[1] in scope.values
    like = scope.values[node.input[1]] if weighs else source
    if shape is not None and like is not None:
        name = node.output[0]
        scope.values[name] = Value(name, shape, scope.values[name].dtype or like.dtype)


def _label(node: onnx.NodeProto, spec: Spec, scope: Scope) -> str:
    if isinstance(spec, Norm):
        return layer_name(node, scope.constants)
    found = owner(node.input[1]) if isinstance(spec, (Conv, ConvTranspose, Linear)) else ""
    return found or node.name or next((n for n in node.output if n), node.op_type)


def _describe(node: onnx.NodeProto, scope: Scope) -> tuple[Spec, list[str]]:
    """What a node is to the planner, and its inputs, the data before the weights."""
    given = list(node.input)
    if node.domain not in STANDARD:
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
    if isinstance(spec, Lookup):
        return given[::-1]
    if isinstance(spec, Linear) and node.op_type in ("MatMul", "Einsum"):
        matrix_first = scope.rank(given[0]) == 2 and spec.axes != (-1, -1)
        if matrix_first and spec != einsum_spec(str(Attributes(node)("equation", "")), 1):
            return given[::-1]
    return given
