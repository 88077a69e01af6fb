"""Results that a node of an ONNX model leaves out: they stand as "" in its list of results."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import onnx

from bncheck.reading.onnx_file import graphs_of

#: What gives any number of results: onnxruntime (1.32) crashes where one of them has no name.
_VARIADIC = frozenset({"Split", "If", "Loop", "Scan"})


def name_omitted(model: onnx.ModelProto, *, every: bool) -> None:
    """Name the results that are left out where there can be any number of them.

    With `every`, name all that stand before another one, since a result is known by its place.
    Those behind the last one become as if not written.
    """
    if all(all(node.output) for node in _nodes(model)):
        return
    taken = set(_names(model))
    names = (name for i in itertools.count() if (name := f"omitted_{i}") not in taken)
    for node in _nodes(model):
        variadic = node.op_type in _VARIADIC
        while len(node.output) > 1 and not node.output[-1] and not variadic:
            node.output.pop()
        for place, name in enumerate(node.output):
            if not name and (variadic or every):
                node.output[place] = next(names)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for graph in graphs_of(model.graph):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _names(model: onnx.ModelProto) -> Iterator[str]:
    for node in _nodes(model):
        yield from (*node.input, *node.output)
    for graph in graphs_of(model.graph):
        for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
            yield item.name
        yield from (tensor.values.name for tensor in graph.sparse_initializer)
