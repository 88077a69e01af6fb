"""ONNX models: initialisers as tensors, normalisation nodes as layers.

External data is read here and not by onnx, because the model may say where it lies: only a file in
the model's own folder is read. A symbolic link is followed where model and data end up in one
folder, as in the Hugging Face cache, whose files are all links into `blobs`.
"""

from __future__ import annotations

import math
import os
from collections import ChainMap
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_DEPTH, MAX_ONNX_BYTES
from bncheck.reading.checkpoint import NormModule, Subtree
from bncheck.reading.onnx_doubts import (
    external_entries,
    graphs_in,
    is_external,
    is_norm,
    refuse_hidden,
    refuse_known,
    refuse_stored_twice,
    whole,
)
from bncheck.reading.onnx_names import text
from bncheck.reading.onnx_norms import (
    INPUTS,
    layer_name,
    norm_node,
    parameters_in,
    round_to_decimal,
)
from bncheck.reading.onnx_weights import without_weights
from bncheck.reading.protobuf import check_size, has_graph, schema_of
from bncheck.reading.referred import referred
from bncheck.reading.remote import Remote
from bncheck.reading.source import Source
from bncheck.reading.tensors import LazyTensor, LoadedTensor, checked_shape

if TYPE_CHECKING:
    import onnx

    from bncheck.reading.onnx_constants import Constant, Resolver
    from bncheck.reading.tensors import Array

#: The constants that a graph sees, by their names in it.
Scope: TypeAlias = "ChainMap[str, Constant]"


class ModelFolder:
    """Where a model's external data may lie; each of its files is opened once.

    `itself`: a name for the model's own file, and the file.
    """

    def __init__(
        self, path: Path, budget: Budget, itself: Mapping[str, Source] = MappingProxyType({})
    ) -> None:
        self._path = path
        self._budget = budget
        self._files = dict(itself)

    def open(self, location: str) -> Source:
        """The data file of that name. Raises BncheckError for one outside the model's folder."""
        if location not in self._files:
            self._files[location] = Source.open(
                referred(self._path.parent, location, raw=True), self._budget
            )
        return self._files[location]

    @property
    def is_far(self) -> bool:
        """Whether the model is a remote file, and so is what it refers to."""
        return isinstance(self._path, Remote)


def parsed(data: bytes) -> onnx.ModelProto:
    """The message in these bytes, once it is known not to be a bomb.

    Raises protobuf's DecodeError.
    """
    import onnx

    check_size(data, schema_of(onnx.ModelProto.DESCRIPTOR))
    model = onnx.ModelProto()
    model.ParseFromString(data)
    return model


def read_onnx(source: Source, path: Path) -> list[Subtree] | None:
    """The model, or None for bytes that are not an ONNX model (protobuf accepts nearly
    anything)."""
    if source.size > MAX_ONNX_BYTES or not has_graph(source):
        return None
    from google.protobuf.message import DecodeError

    from bncheck.reading.onnx_constants import Resolver
    from bncheck.reading.onnx_functions import without_functions
    from bncheck.reading.onnx_uses import refuse_misused

    itself = os.urandom(16).hex()  # so that no file can say that its data are somewhere in it
    try:
        model = parsed(without_weights(source, itself))
    except DecodeError:
        return None
    if not model.ir_version or not model.HasField("graph") or not model.graph.node:
        return None
    model = without_functions(model)
    refuse_hidden(model.graph)
    folder = ModelFolder(path, source.budget, {itself: source})
    resolver = Resolver(model, partial(load_tensor, folder=folder), source.budget.computed)
    parameters = parameters_in(graphs_of(model.graph))
    found = _Found(resolver, folder, parameters)
    graphs = []
    for graph, scope in _graphs(model.graph):
        found.add(graph, scope)
        graphs.append((graph, scope))
    refuse_misused(graphs, found.modules, parameters)
    return [Subtree("", found.tensors, found.modules, program=model)]


class _Found:
    """The tensors and the normalisations of a model, each under a name that is unique."""

    def __init__(self, resolver: Resolver, folder: ModelFolder, parameters: set[str]) -> None:
        self._folder = folder
        self._parameters = parameters
        self.tensors: dict[str, LazyTensor] = {}
        self.modules: dict[str, NormModule] = {}
        self._resolver = resolver
        self._names: dict[Constant, str] = {}
        self._unused = _Names()

    def add(self, graph: onnx.GraphProto, scope: Scope) -> None:
        """Take in a graph; its constants go into `scope`."""
        refuse_stored_twice(graph)
        stored = {text(tensor.name) for tensor in graph.initializer}
        for tensor in graph.initializer:
            name = text(tensor.name)
            scope[name] = self._resolver.stored(name, tensor)
            self._name(scope[name], self._rows(tensor))
        refuse_known((text(i.name) for i in graph.input if text(i.name) not in stored), scope)
        refuse_known((text(s.values.name) for s in graph.sparse_initializer), scope)
        for node in graph.node:
            constants = self._constants(node, scope)
            refuse_known(map(text, node.output), scope.maps[0] if constants else scope)
            for name, constant in zip(node.output, constants, strict=False):
                scope[text(name)] = constant
                if node.op_type == "Constant":
                    self._name(constant)
            if is_norm(node):
                name = self._unused.name(layer_name(node, scope), self.modules)
                self.modules[name] = self._module(node, scope)

    def _constants(self, node: onnx.NodeProto, scope: Scope) -> Sequence[Constant]:
        """What a node computes, where a layer is computed from it."""
        wanted = node.op_type == "Constant" or not self._parameters.isdisjoint(node.output)
        return (self._resolver.outputs(node, scope) or ()) if wanted else ()

    def _rows(self, tensor: onnx.TensorProto) -> Callable[[int, int], Array] | None:
        """Reads some rows of a tensor in a file that is near: each request has its price."""
        near = is_external(tensor) and not self._folder.is_far
        return partial(load_tensor, tensor, self._folder) if near else None

    def _name(self, constant: Constant, rows: Callable[[int, int], Array] | None = None) -> str:
        """The name of a constant in the file; what is computed has one where a layer reads it."""
        if constant not in self._names:
            name = self._names[constant] = self._unused.name(constant.name, self.tensors)
            self.tensors[name] = LoadedTensor(constant.read, constant.shape, rows=rows)
        return self._names[constant]

    def _module(self, node: onnx.NodeProto, scope: Scope) -> NormModule:
        kind = text(node.op_type)
        inputs = zip(INPUTS.get(kind, ()), map(text, node.input), strict=False)
        given = {role: scope[name] for role, name in inputs if role and name in scope}
        says = norm_node(node, self._resolver.opset)
        is_batch = kind == "BatchNormalization"
        return NormModule(
            kind,
            {role: self._name(constant) for role, constant in given.items()},
            eps=says.eps,
            # ONNX: running = running * momentum + batch * (1 - momentum)
            momentum=round_to_decimal(1.0 - says.momentum) if is_batch else None,
            momentum_known=is_batch,
            training=says.trains if is_batch else None,
            tracks_statistics=True if is_batch else None,
            sources=frozenset(self._name(o) for c in given.values() for o in c.origins),
        )


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside its If, Loop and Scan nodes."""
    return (inner for inner, _ in _graphs(graph))


def _graphs(graph: onnx.GraphProto) -> Iterator[tuple[onnx.GraphProto, Scope]]:
    """The graph and those inside its If, Loop and Scan nodes, each with its scope.

    An inner graph sees the names around it and may use them again for something else.
    """
    stack: list[tuple[onnx.GraphProto, Scope]] = [(graph, ChainMap())]
    while stack:
        graph, scope = stack.pop()
        if len(scope.maps) > MAX_DEPTH:
            raise BncheckError("nests graphs too deeply (limit MAX_DEPTH)", "simplify it")
        yield graph, scope
        for node in graph.node:
            stack.extend((inner, scope.new_child()) for inner in graphs_in(node))


class _Names:
    """Two nodes may share their statistics, and two branches a name: each is there."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def name(self, wanted: str, taken: Container[str]) -> str:
        """`wanted`, or `wanted (2)`, `wanted (3)`... where that is taken."""
        name = wanted
        while name in taken:
            number = self._next.get(wanted, 2)
            self._next[wanted] = number + 1
            name = f"{wanted} ({number})"
        return name


def load_tensor(
    tensor: onnx.TensorProto, folder: ModelFolder, start: int = 0, stop: int | None = None
) -> Array:
    """A tensor's numbers, also from a data file in the model's own folder.

    With `stop`, those of rows `start` to `stop` of one in a file.
    """
    from onnx import numpy_helper

    try:
        if is_external(tensor):
            return _load_external(tensor, folder, start, stop)
        checked_shape(tensor.dims)
        array: Array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise BncheckError(
            f"has an initialiser {text(tensor.name)[:60]!r} whose bytes do not fit its shape "
            f"({type(error).__name__})",
            "export it again",
        ) from None
    return array


def _load_external(
    tensor: onnx.TensorProto, folder: ModelFolder, start: int, stop: int | None
) -> Array:
    import numpy as np
    from onnx import helper

    entries = external_entries(tensor)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    shape = checked_shape(tensor.dims)
    length = dtype.itemsize * math.prod(shape)
    said = whole(entries.get("length"), length)
    if said != length:
        raise BncheckError(
            f"declares {said:,} bytes for {text(tensor.name)[:60]!r}; its shape needs {length:,}",
            "export it again",
        )
    data = folder.open(entries.get("location", ""))
    offset = whole(entries.get("offset"), 0)
    if stop is not None:
        row = length // shape[0]
        offset, length, shape = (
            offset + start * row,
            (stop - start) * row,
            (stop - start, *shape[1:]),
        )
    return data.array(offset, length).view(dtype).reshape(shape)
