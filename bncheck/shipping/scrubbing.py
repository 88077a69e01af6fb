"""What an exporter leaves in a file beside the model: paths, source lines, module names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

from bncheck.reading.onnx_file import graphs_of


def scrub(model: onnx.ModelProto) -> None:
    """Drop all metadata and documentation, whichever part of the model carries it."""
    _clear(model)
    for graph in graphs_of(model.graph):
        _scrub_graph(graph)
    for function in model.functions:
        _clear(function)
        for info in function.value_info:
            _clear(info)
        for node in function.node:
            _scrub_node(node)


def _scrub_graph(graph: onnx.GraphProto) -> None:
    _clear(graph)
    for item in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        _clear(item)
    for node in graph.node:
        _scrub_node(node)


def _scrub_node(node: onnx.NodeProto) -> None:
    _clear(node)
    for attribute in node.attribute:
        attribute.doc_string = ""
        if attribute.HasField("t"):
            _clear(attribute.t)


def _clear(part: Any) -> None:
    part.ClearField("doc_string")
    part.ClearField("metadata_props")


def set_metadata(model: onnx.ModelProto, facts: Mapping[str, str]) -> None:
    """The model's own metadata, in the order of the keys; runtimes show it."""
    del model.metadata_props[:]
    for key in sorted(facts):
        model.metadata_props.add(key=f"bncheck.{key}", value=facts[key])
