"""Parts of an ONNX model as models of their own, and a model that shows more than its outputs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import onnx
from onnx import helper

from bncheck.folding.regions import Call, Calls, between, unmade
from bncheck.folding.result import epsilon_for
from bncheck.graph.onnx.nodes import FLOATS, captured

_KINDS = {name: kind for kind, name in FLOATS.items()}


class Cuttable:
    """A model whose parts are asked for; `calls` are the nodes of its outermost graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.calls = Calls(
            Call(_named(*node.input, *captured(node)), _named(*node.output))
            for node in model.graph.node
        )
        self.made = self.calls.makers.keys()
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._sparse = {t.values.name: t for t in model.graph.sparse_initializer}

    def has(self, name: str) -> bool:
        """Whether a value is in the outermost graph."""
        return name in self.made or name in self._stored

    def entries(self, exits: Sequence[str], stops: Callable[[str], bool]) -> list[str]:
        """The values at which the way back from the exits stops."""
        return between(self.calls, exits, stops)[1]

    def nodes(self, exits: Sequence[str], stops: Callable[[str], bool]) -> list[onnx.NodeProto]:
        """What makes the exits of such values."""
        return [self.model.graph.node[place] for place in between(self.calls, exits, stops)[0]]

    def part(
        self, exits: Sequence[str], stops: Callable[[str], bool]
    ) -> tuple[onnx.ModelProto, list[str], list[onnx.TensorProto]]:
        """A model from the values at which it stops to the exits; these values' names; its weights.

        It takes both. Its outputs are in the order of the exits, under names of their own where an
        exit is read again.
        """
        places, entries = between(self.calls, exits, stops)
        loose = list(unmade(self.calls, places, entries))
        given = [*entries, *(n for n in loose if n not in self._stored and n not in self._sparse)]
        stored = [self._stored[name] for name in loose if name in self._stored]
        part = onnx.ModelProto()
        part.ir_version = self.model.ir_version
        part.opset_import.extend(self.model.opset_import)
        own = {name: f"{name}/exit" for name in exits if name in given}
        for place in places:
            part.graph.node.append(self.model.graph.node[place])
            outputs = part.graph.node[-1].output
            for slot, name in enumerate(outputs):
                outputs[slot] = own.get(name, name)
        part.graph.sparse_initializer.extend(self._sparse[n] for n in loose if n in self._sparse)
        taken = [*given, *(tensor.name for tensor in stored)]
        part.graph.input.extend(map(helper.make_empty_tensor_value_info, taken))
        names = [own.get(name, name) for name in exits]
        part.graph.output.extend(map(helper.make_empty_tensor_value_info, names))
        return part, given, stored


def _named(*names: str) -> tuple[str, ...]:
    """Without what is left out."""
    return tuple(filter(None, names))


@contextlib.contextmanager
def showing(model: onnx.ModelProto, names: Iterable[str]) -> Iterator[onnx.ModelProto]:
    """The model with these values as outputs behind its own, for as long as this is open."""
    own = len(model.graph.output)
    model.graph.output.extend(map(helper.make_empty_tensor_value_info, names))
    try:
        yield model
    finally:
        del model.graph.output[own:]


def moved(model: onnx.ModelProto, dtypes: Mapping[str, str]) -> onnx.ModelProto:
    """The model with some values off by about one unit in the last place when they are read.

    `dtypes` are the floating dtypes of these values, by name.
    """
    new = onnx.ModelProto()
    new.CopyFrom(model)
    read_instead(new.graph, {name: f"{name}/product" for name in dtypes})
    seeds = {name: seed for seed, name in enumerate(dtypes)}
    makers = [dict.fromkeys(filter(None, node.output)) for node in new.graph.node]
    made = {name for each in makers for name in each}
    nodes = [n for name in dtypes if name not in made for n in _moving(name, dtypes, seeds)]
    for node, names in zip(new.graph.node, makers, strict=True):
        nodes.append(node)
        nodes += [n for name in names if name in dtypes for n in _moving(name, dtypes, seeds)]
    plain = onnx.GraphProto(node=nodes)
    del new.graph.node[:]
    new.graph.node.extend(plain.node)
    return new


def _moving(
    name: str, dtypes: Mapping[str, str], seeds: Mapping[str, int]
) -> Iterator[onnx.NodeProto]:
    """A value times random numbers about 1, as NAME/product."""
    kind = _KINDS[dtypes[name]]
    # Uniform numbers between -w and w have the size w / sqrt(3).
    wide = math.sqrt(3) * epsilon_for([dtypes[name]])
    draw, factor = f"{name}/drawn", f"{name}/factor"
    # The runtime has no random numbers of less precision.
    double = onnx.TensorProto.DOUBLE
    drawn = double if kind == double else onnx.TensorProto.FLOAT
    yield helper.make_node(
        "RandomUniformLike", [name], [draw],
        dtype=drawn, low=1 - wide, high=1 + wide, seed=float(seeds[name]),
    )  # fmt: skip
    yield helper.make_node("Cast", [draw], [factor], to=kind)
    yield helper.make_node("Mul", [name, factor], [f"{name}/product"])


def read_instead(graph: onnx.GraphProto, others: Mapping[str, str]) -> None:
    """Let nodes read other values, those in graphs inside nodes as well."""
    for node in graph.node:
        for slot, name in enumerate(node.input):
            if name in others:
                node.input[slot] = others[name]
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                own = _own_names(inner)
                rest = {old: new for old, new in others.items() if old not in own}
                read_instead(inner, rest)
                for output in inner.output:
                    output.name = rest.get(output.name, output.name)


def _own_names(graph: onnx.GraphProto) -> Collection[str]:
    """What a graph inside a node calls by itself."""
    given = {item.name for item in (*graph.input, *graph.initializer)}
    return given | {name for node in graph.node for name in node.output}
