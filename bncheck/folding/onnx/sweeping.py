"""What a fold leaves without a reader goes: nodes, numbers, and what is said about them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from bncheck.graph.onnx.nodes import names_in
from bncheck.reading.onnx_file import graphs_of


def all_names(graph: onnx.GraphProto) -> Iterator[str]:
    """The names of all values in a graph and in those inside it."""
    for inner in graphs_of(graph):
        for node in inner.node:
            yield from (*node.input, *node.output)
        for item in (*inner.initializer, *inner.input, *inner.output):
            yield item.name


def unused(wish: str, taken: set[str]) -> str:
    """A name like that one which no value has; it is taken from now on."""
    name, count = wish, 1
    while name in taken:
        name, count = f"{wish}_{count}", count + 1
    taken.add(name)
    return name


def sweep(model: onnx.ModelProto, before: set[str]) -> None:
    """Remove nodes and initialisers whose outputs are no longer used; `before` were read once."""
    changed = True
    while changed:
        reads = set(names_in(model.graph))
        swept = [_sweep_graph(graph, reads, before) for graph in graphs_of(model.graph)]
        changed = any(swept)
    for graph in graphs_of(model.graph):
        _tidy(graph, before, set(all_names(graph)))


def _sweep_graph(graph: onnx.GraphProto, reads: set[str], before: set[str]) -> bool:
    dead = [
        place
        for place, node in enumerate(graph.node)
        if not reads.intersection(node.output) and before.intersection(node.output)
    ]
    names = [tensor.name for tensor in graph.initializer]
    idle = [place for place, n in enumerate(names) if n not in reads and n in before]
    for place in reversed(dead):
        del graph.node[place]
    for place in reversed(idle):
        del graph.initializer[place]
    return bool(dead or idle)


def _tidy(graph: onnx.GraphProto, before: set[str], known: set[str]) -> None:
    """Inputs that stood for removed initialisers (before IR 4), and what is said of lost values."""
    stored = {tensor.name for tensor in graph.initializer}
    reads = set(names_in(graph))
    for info in list(graph.input):
        gone = info.name in before and info.name not in reads and info.name not in stored
        if gone:
            graph.input.remove(info)
    for info in list(graph.value_info):
        if info.name not in known:
            graph.value_info.remove(info)
