"""Calls of many operands as calls of two, which is what the planner knows."""

from __future__ import annotations

import onnx
from onnx import helper

from bncheck.reading.onnx_file import graphs_of
from bncheck.reading.onnx_names import STANDARD


def decomposed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with sums of more than two operands as additions; itself where there are none."""
    if not any(_is_long(node) for graph in graphs_of(model.graph) for node in graph.node):
        return model
    new = onnx.ModelProto()
    new.CopyFrom(model)
    for graph in list(graphs_of(new.graph)):
        if any(map(_is_long, graph.node)):
            nodes = [plain for node in graph.node for plain in _additions(node)]
            del graph.node[:]
            graph.node.extend(nodes)
    return new


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
