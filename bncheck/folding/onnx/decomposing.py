"""Calls of many operands as calls of two, products without what is repeated for them: what the
planner knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from bncheck.graph.onnx.read import Part, read_model
from bncheck.reading.onnx_file import graphs_of
from bncheck.reading.onnx_names import STANDARD

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array


def decomposed(
    model: onnx.ModelProto, load: Callable[[onnx.TensorProto], Array] | None = None
) -> onnx.ModelProto:
    """The model with sums of more than two operands as additions, and without Expand before MatMul;
    itself where there are none. `load` as for `read_model`."""
    nodes = [node for graph in graphs_of(model.graph) for node in graph.node]
    repeated = {node.output[0] for node in nodes if node.op_type == "Expand"}
    repeats = any(node.op_type == "MatMul" and repeated & {*node.input} for node in nodes)
    if not repeats and not any(map(_is_long, nodes)):
        return model
    new = onnx.ModelProto()
    new.CopyFrom(model)
    if repeats:
        for part in read_model(new, load):
            _without_expansions(part)
    for graph in list(graphs_of(new.graph)):
        if any(map(_is_long, graph.node)):
            nodes = [plain for node in graph.node for plain in _additions(node)]
            del graph.node[:]
            graph.node.extend(nodes)
    return new


def _without_expansions(part: Part) -> None:
    """MatMul repeats what has a size of 1 by itself, as often as the other operand asks for."""
    sources = {n.output[0]: n.input[0] for n in part.proto.node if n.op_type == "Expand"}
    for node in part.proto.node:
        if node.op_type != "MatMul":
            continue
        for place in (0, 1):
            source = sources.get(node.input[place])
            shape, other = (part.graph.shape(node.input[p]) or () for p in (place, 1 - place))
            before = part.graph.shape(source) or ()
            if source and before[-2:] == shape[-2:] and other[:-2] == shape[:-2]:
                node.input[place] = source
                break


def _is_long(node: onnx.NodeProto) -> bool:
    return node.op_type == "Sum" and node.domain in STANDARD and len(node.input) > 2


def _additions(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    if not _is_long(node):
        return [node]
    last, result = len(node.input) - 1, node.output[0]
    names = [node.input[0], *(f"{result}.sum{i}" for i in range(1, last)), result]
    return [
        helper.make_node("Add", [names[i - 1], node.input[i]], [names[i]], node.name)
        for i in range(1, last + 1)
    ]
