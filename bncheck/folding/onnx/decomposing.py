"""Calls of many operands as calls of two, which is what the planner knows."""

from __future__ import annotations

import onnx
from onnx import helper

from bncheck.reading.onnx_file import graphs_of
from bncheck.reading.onnx_names import STANDARD


def decompose(model: onnx.ModelProto) -> None:
    """Write the sums of more than two operands as additions, in place."""
    for graph in list(graphs_of(model.graph)):
        long = [n for n in graph.node if n.op_type == "Sum" and len(n.input) > 2]
        if any(node.domain in STANDARD for node in long):
            nodes = [plain for node in graph.node for plain in _additions(node)]
            del graph.node[:]
            graph.node.extend(nodes)


def _additions(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    if node.op_type != "Sum" or node.domain not in STANDARD or len(node.input) < 3:
        return [node]
    last, result = len(node.input) - 1, node.output[0]
    names = [node.input[0], *(f"{result}.sum{i}" for i in range(1, last)), result]
    return [
        helper.make_node("Add", [names[i - 1], node.input[i]], [names[i]], node.name)
        for i in range(1, last + 1)
    ]
