"""Calls of many operands as calls of two, products without what is repeated for them: what the
planner knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bncheck.folding.algebra import numpy_dtype
from bncheck.folding.onnx.sweeping import all_names, unused
from bncheck.graph.dataflow import Graph
from bncheck.graph.onnx.read import Part, read_model
from bncheck.reading.onnx_constants import opset_of
from bncheck.reading.onnx_file import graphs_of
from bncheck.reading.onnx_names import STANDARD

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

#: What joins two operands of what is given many.
_PAIRWISE = {"Sum": "Add", "Mean": "Add", "Max": "Max", "Min": "Min"}


def decomposed(
    model: onnx.ModelProto, load: Callable[[onnx.TensorProto], Array] | None = None
) -> onnx.ModelProto:
    """The model with sums, means and extremes of more than two operands as those of two, and
    without Expand before MatMul; itself where there are none. `load` as for `read_model`."""
    nodes = [node for graph in graphs_of(model.graph) for node in graph.node]
    repeated = {n for node in nodes if node.op_type == "Expand" for n in node.output if n}
    repeats = any(node.op_type == "MatMul" and repeated & {*node.input} for node in nodes)
    if not repeats and not any(map(_is_long, nodes)):
        return model
    new, opset = onnx.ModelProto(), opset_of(model)
    new.CopyFrom(model)
    # Inner graphs first: whoever changes a graph's list of nodes gets copies of the graphs inside.
    taken = set(all_names(new.graph))
    for part in reversed(read_model(new, load)):
        _without_expansions(part)
        if any(map(_is_long, part.proto.node)):
            graph = part.graph
            nodes = [n for node in part.proto.node for n in _in_pairs(node, graph, opset, taken)]
            del part.proto.node[:]
            part.proto.node.extend(nodes)
    return new


def _without_expansions(part: Part) -> None:
    """MatMul repeats what has a size of 1 by itself, as often as the other operand asks for."""
    expansions = [node for node in part.proto.node if node.op_type == "Expand"]
    sources = {name: n.input[0] for n in expansions for name in n.output if name}
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
    return node.op_type in _PAIRWISE and node.domain in STANDARD and len(node.input) > 2


def _in_pairs(
    node: onnx.NodeProto, graph: Graph, opset: int, taken: set[str]
) -> list[onnx.NodeProto]:
    """A mean is a sum that is divided, in the dtype of its operands: it stays without one, and
    before opset 7, where a number is not repeated. `taken` are the names of values."""
    result = node.output[0] if node.output else ""
    value, is_mean = graph.values.get(result), node.op_type == "Mean"
    divisible = value is not None and value.dtype and opset >= 7
    if not _is_long(node) or not result or (is_mean and not divisible):
        return [node]
    kind, last = _PAIRWISE[node.op_type], len(node.input) - 1
    total = unused(f"{result}.sum", taken) if is_mean else result
    between = [unused(f"{result}.{node.op_type.lower()}{i}", taken) for i in range(1, last)]
    names = [node.input[0], *between, total]
    pairs = [
        helper.make_node(kind, [names[i - 1], node.input[i]], [names[i]])
        for i in range(1, last + 1)
    ]
    if not is_mean or value is None:
        pairs[-1].name = node.name  # a name is one node's: onnxruntime refuses a second
        return pairs
    count = numpy_helper.from_array(np.asarray(len(node.input), numpy_dtype(value.dtype)))
    number = helper.make_node("Constant", [], [unused(f"{result}.count", taken)], value=count)
    return [*pairs, number, helper.make_node("Div", [total, number.output[0]], [result], node.name)]
