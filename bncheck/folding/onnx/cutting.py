"""Parts of an ONNX model as models of their own, and a model that shows more than its outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import onnx
from onnx import helper

from bncheck.folding.regions import Call, between, unmade
from bncheck.graph.onnx.nodes import captured


class Cuttable:
    """A model whose parts are asked for; `calls` are the nodes of its outermost graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.calls = [
            Call(tuple(n for n in (*node.input, *captured(node)) if n), tuple(node.output))
            for node in model.graph.node
        ]
        self.made = {name for call in self.calls for name in call.makes if name}
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._sparse = {t.values.name: t for t in model.graph.sparse_initializer}

    def entries(self, exits: Sequence[str], stops: Callable[[str], bool]) -> list[str]:
        """The values at which the way back from the exits stops."""
        return between(self.calls, exits, stops)[1]

    def part(
        self, exits: Sequence[str], stops: Callable[[str], bool]
    ) -> tuple[onnx.ModelProto, list[str]]:
        """A model from the values at which it stops to the exits, and these values' names.

        Its outputs are in the order of the exits, under names of their own where an exit is read
        again.
        """
        places, entries = between(self.calls, exits, stops)
        loose = list(unmade(self.calls, places, entries))
        given = [*entries, *(n for n in loose if n not in self._stored and n not in self._sparse)]
        part = onnx.ModelProto()
        part.ir_version = self.model.ir_version
        part.opset_import.extend(self.model.opset_import)
        own = {name: f"{name}/exit" for name in exits if name in given}
        for place in places:
            part.graph.node.append(self.model.graph.node[place])
            outputs = part.graph.node[-1].output
            for slot, name in enumerate(outputs):
                outputs[slot] = own.get(name, name)
        part.graph.initializer.extend(self._stored[n] for n in loose if n in self._stored)
        part.graph.sparse_initializer.extend(self._sparse[n] for n in loose if n in self._sparse)
        part.graph.input.extend(map(helper.make_empty_tensor_value_info, given))
        names = [own.get(name, name) for name in exits]
        part.graph.output.extend(map(helper.make_empty_tensor_value_info, names))
        return part, given


def showing(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The model with these values as outputs behind its own."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    new.graph.output.extend(map(helper.make_empty_tensor_value_info, names))
    return new


def moved(model: onnx.ModelProto, dtypes: Mapping[str, int]) -> onnx.ModelProto:
    """The model with values multiplied by a new input each, `NAME/moved`, before they are read.

    `dtypes` gives these values' element types.
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    for name, dtype in dtypes.items():
        factor, result = factor_of(name), f"{name}/product"
        _read_instead(new.graph, name, result)
        makers = [i for i, node in enumerate(new.graph.node) if name in node.output]
        new.graph.node.insert(
            makers[0] + 1 if makers else 0, helper.make_node("Mul", [name, factor], [result])
        )
        new.graph.input.append(helper.make_tensor_value_info(factor, dtype, None))
    return new


def factor_of(name: str) -> str:
    """The input that a value is multiplied by."""
    return f"{name}/moved"


def _read_instead(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Let nodes read another value, those in graphs inside nodes as well."""
    for node in graph.node:
        for slot, name in enumerate(node.input):
            if name == old:
                node.input[slot] = new
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                if old not in _own_names(inner):
                    _read_instead(inner, old, new)
                    for output in inner.output:
                        if output.name == old:
                            output.name = new


def _own_names(graph: onnx.GraphProto) -> Collection[str]:
    """What a graph inside a node calls by itself."""
    given = {item.name for item in (*graph.input, *graph.initializer)}
    return given | {name for node in graph.node for name in node.output}
