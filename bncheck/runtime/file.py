"""ONNX files: read with their external data, written whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import onnx
from onnx import numpy_helper

from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_ONNX_BYTES
from bncheck.reading.onnx_constants import held
from bncheck.reading.onnx_doubts import is_external
from bncheck.reading.onnx_file import ModelFolder, graphs_of, load_tensor, parsed
from bncheck.reading.onnx_omitted import name_omitted
from bncheck.reading.onnx_weights import without_weights
from bncheck.reading.protobuf import field_head
from bncheck.reading.source import Source
from bncheck.runtime.weights import Weights, is_large
from bncheck.writing.atomic import check_read_back, replacing

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

Load: TypeAlias = "Callable[[onnx.TensorProto], Array]"
_GRAPH: Final = 7  # of ModelProto
_INITIALIZER: Final = 5  # of GraphProto
_RAW: Final = 9  # of TensorProto


def open_onnx(path: Path, *, freeze_inputs: bool = False) -> tuple[onnx.ModelProto, Weights]:
    """A model that refers to its large weights, and these. Raises BncheckError.

    External data may lie in the model's own folder only. `freeze_inputs`: inputs that have a value
    already are then no longer inputs.
    """
    model, load = _opened(path)
    if freeze_inputs and model.ir_version >= 4:
        needed = list(user_inputs(model))
        del model.graph.input[:]
        model.graph.input.extend(needed)
    return model, Weights(load)


def _opened(path: Path) -> tuple[onnx.ModelProto, Load]:
    """The model, and what reads the large weights that it refers to."""
    source = Source.open(path, Budget())
    if source.size > MAX_ONNX_BYTES:
        raise BncheckError("is larger than a protobuf can be", "check the file", str(path))
    itself = os.urandom(16).hex()  # so that no file can say that its data are somewhere in it
    model = parsed(without_weights(source, itself))
    name_omitted(model, every=False)
    folder = ModelFolder(path, source.budget, {itself: source})
    load = partial(load_tensor, folder=folder)
    for tensor in filter(is_external, _stored(model)):
        tensor.CopyFrom(numpy_helper.from_array(load(tensor), tensor.name))
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in _other_tensors(model)):
        raise BncheckError(
            "keeps the data of an attribute or a function in another file",
            "export it again with its data in one file",
            str(path),
        )
    return model, load


def _stored(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The tensors that are to be in the message: all but the large ones of the outermost graph."""
    for graph in graphs_of(model.graph):
        outermost = graph is model.graph
        yield from (t for t in graph.initializer if not (outermost and is_large(t)))
        yield from (a.t for n in graph.node for a in n.attribute if a.HasField("t"))


def _other_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Where models have no external data, and onnxruntime would look for it all the same."""
    holders = [graph.node for graph in graphs_of(model.graph)]
    for graph in graphs_of(model.graph):
        yield from (t for sparse in graph.sparse_initializer for t in _parts(sparse))
    for function in model.functions:
        held = onnx.GraphProto(node=function.node)
        for inner in graphs_of(held):
            holders.append(inner.node)
            yield from inner.initializer
            yield from (a.t for node in inner.node for a in node.attribute)
    for attribute in (a for nodes in holders for node in nodes for a in node.attribute):
        yield from attribute.tensors
        sparse_ones = [attribute.sparse_tensor, *attribute.sparse_tensors]
        yield from (t for sparse in sparse_ones for t in _parts(sparse))


def _parts(sparse: onnx.SparseTensorProto) -> tuple[onnx.TensorProto, onnx.TensorProto]:
    return sparse.values, sparse.indices


def user_inputs(model: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    """The inputs that a caller must give."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return (info for info in model.graph.input if info.name not in stored)


def save_onnx(
    model: onnx.ModelProto, weights: Weights, path: Path, original: Path | None = None
) -> None:
    """Write a model with all its data in one file, whole or not at all. Raises BncheckError."""
    pieces = wire(model, weights)
    if sum(map(len, pieces)) > MAX_ONNX_BYTES:
        raise BncheckError("would be larger than a protobuf can be", "fold it in parts", str(path))
    with replacing(path, original) as temporary:
        with open(temporary, "wb") as file:
            file.writelines(pieces)
        check_read_back(path, lambda: is_written(temporary, model, weights))


def is_written(path: Path, model: onnx.ModelProto, weights: Weights) -> bool:
    """Whether a file holds this model, bit by bit; read one weight at a time. It may raise."""
    read, load = _opened(path)
    pairs = zip(read.graph.initializer, model.graph.initializer, strict=False)
    return _without_initializers(read) == _without_initializers(model) and all(
        _is_same(one, other, load, weights) for one, other in pairs
    )


def _without_initializers(model: onnx.ModelProto) -> tuple[int, bytes]:
    """The number of initialisers, and the rest of the model as bytes."""
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    del rest.graph.initializer[:]
    return len(model.graph.initializer), rest.SerializeToString(deterministic=True)


def _is_same(
    read: onnx.TensorProto, proven: onnx.TensorProto, load: Load, weights: Weights
) -> bool:
    if not is_external(read) and not is_external(proven):
        return bool(read == proven)
    one = load(read) if is_external(read) else held(read)
    return read.name == proven.name and same_bits(one, weights.numbers(proven))


def wire(model: onnx.ModelProto, weights: Weights) -> list[bytes | memoryview]:
    """The message as protobuf writes it, without a copy of the weights."""
    rest, light = onnx.ModelProto(), onnx.GraphProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    light.CopyFrom(model.graph)
    del light.initializer[:]
    graph: list[bytes | memoryview] = [light.SerializeToString()]
    for tensor in model.graph.initializer:
        graph += _field(_INITIALIZER, _tensor(tensor, weights))
    return [rest.SerializeToString(), *_field(_GRAPH, graph)]


def _tensor(tensor: onnx.TensorProto, weights: Weights) -> list[bytes | memoryview]:
    if not is_external(tensor):
        return [tensor.SerializeToString()]
    array = weights.numbers(tensor)
    plain = onnx.TensorProto()
    plain.CopyFrom(tensor)
    plain.ClearField("data_location")
    plain.ClearField("external_data")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    raw = bits(little).data
    return [plain.SerializeToString(), *_field(_RAW, [raw])]


def bits(array: Array) -> Array:
    """The bytes of the numbers, in their order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def same_bits(one: Array, other: Array) -> bool:
    """Whether both are the same numbers of one dtype and shape, NaN and -0 among them."""
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and np.array_equal(bits(one), bits(other))


def _field(number: int, content: list[bytes | memoryview]) -> list[bytes | memoryview]:
    return [field_head(number, sum(map(len, content))), *content]
