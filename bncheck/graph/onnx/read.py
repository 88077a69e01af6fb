"""An ONNX model as the planner's graphs: one for the model, one for each graph inside it.

An operation's name is its node's place in its graph. A value that a branch takes from the graph
around it is an input there, and so stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from bncheck.graph.dataflow import Graph, Op, Value, without_idle
from bncheck.graph.linear import Linear
from bncheck.graph.onnx.light import with_shapes
from bncheck.graph.onnx.nodes import FLOATS, captured, is_whole
from bncheck.graph.onnx.operators import described
from bncheck.graph.onnx.scope import Scope
from bncheck.graph.onnx.shapes import complete
from bncheck.graph.onnx.sizes import follow
from bncheck.graph.specs import (
    Conv,
    ConvTranspose,
    Norm,
    Recurrent,
    Rescaled,
    Spec,
    Split,
)
from bncheck.reading.onnx_constants import Resolver
from bncheck.reading.onnx_names import owner
from bncheck.reading.onnx_norms import layer_name

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

#: Their second input has the name of the layer.
_WITH_WEIGHT = (Conv, ConvTranspose, Linear, Recurrent, Rescaled)


@dataclass(frozen=True)
class Part:
    """A graph of the model: as it is written, and as the planner sees it."""

    proto: onnx.GraphProto
    graph: Graph


def read_model(
    model: onnx.ModelProto, load: Callable[[onnx.TensorProto], Array] | None = None
) -> list[Part]:
    """The model's graph and all inside it, outer ones first; shapes are inferred on a copy.

    `load` reads a stored tensor; None: those whose numbers stand in the message.
    """
    return list(_parts(model.graph, with_shapes(model).graph, model, Resolver(model, load)))


def _parts(
    proto: onnx.GraphProto,
    known: onnx.GraphProto,
    model: onnx.ModelProto,
    around: Scope | Resolver,
) -> Iterator[Part]:
    scope = Scope(proto, known, model.ir_version, around)
    what = "inner graph" if isinstance(around, Scope) else "model"
    yield Part(proto, _read(known, scope, what))
    for node, twin in zip(proto.node, known.node, strict=True):
        for mine, other in zip(node.attribute, twin.attribute, strict=True):
            pairs = [(mine.g, other.g)] if mine.HasField("g") else []
            pairs += list(zip(mine.graphs, other.graphs, strict=True))
            for inner, its_twin in pairs:
                yield from _parts(inner, its_twin, model, scope)


def _read(proto: onnx.GraphProto, scope: Scope, what: str) -> Graph:
    ops = []
    for place, written in enumerate(proto.node):
        node = _plain(written, scope) if is_whole(written, scope.opset) else _opaque(written)
        follow(node, scope)
        if not scope.fix(node):
            ops.append(_operation(str(place), node, scope))
    found = frozenset(o.name for o in proto.output)
    return Graph(tuple(without_idle(ops, found)), scope.values, found, what=what)


def _operation(name: str, node: onnx.NodeProto, scope: Scope) -> Op:
    for output in filter(None, node.output):
        scope.values.setdefault(output, Value(output, None, ""))
    complete(node, scope)
    spec, given = described(node, scope)
    results = node.output if isinstance(spec, Split) else scope.results(node)
    outputs = tuple(name for name in results if name)
    inputs = tuple(name or None for name in (*given, *captured(node)))
    return Op(name, spec, inputs, outputs, _label(node, spec, scope), node.op_type)


def _opaque(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node of which nothing is known but what it reads and writes."""
    unknown = onnx.NodeProto()
    unknown.CopyFrom(node)
    unknown.domain = "?"
    return unknown


def _plain(node: onnx.NodeProto, scope: Scope) -> onnx.NodeProto:
    """CastLike as the Cast that it is: of its second input, only the dtype counts."""
    if node.op_type != "CastLike":
        return node
    like = scope.values.get(node.input[1])
    kind = next((k for k, name in FLOATS.items() if like and name == like.dtype), None)
    if kind is None:
        return node
    return helper.make_node("Cast", node.input[:1], node.output, node.name, to=kind)


def _label(node: onnx.NodeProto, spec: Spec, scope: Scope) -> str:
    if isinstance(spec, Norm):
        return layer_name(node, scope.constants)
    found = owner(node.input[1]) if isinstance(spec, _WITH_WEIGHT) else ""
    return found or node.name or next((n for n in node.output if n), node.op_type)
