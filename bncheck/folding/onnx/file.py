"""ONNX files: read with their external data, written whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_ONNX_BYTES
from bncheck.reading.onnx_file import ModelFolder, graphs_of, load_tensor, parse_model
from bncheck.reading.source import Source
from bncheck.writing.atomic import replacing


def load_onnx(path: Path, *, freeze_inputs: bool = False) -> onnx.ModelProto:
    """Read a model with its external data, which may lie in its own folder only.

    `freeze_inputs`: inputs that have a value already are then no longer inputs.
    """
    source = Source.open(path, Budget())
    if source.size > MAX_ONNX_BYTES:
        raise BncheckError("is larger than a protobuf can be", "check the file", str(path))
    model = parse_model(source)
    folder = ModelFolder(path, source.budget)
    for graph in graphs_of(model.graph):
        tensors = list(graph.initializer)
        tensors += [a.t for n in graph.node for a in n.attribute if a.HasField("t")]
        for tensor in tensors:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                array = np.asarray(load_tensor(tensor, folder))
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in _other_tensors(model)):
        raise BncheckError(
            "keeps the data of an attribute or a function in another file",
            "export it again with its data in one file",
            str(path),
        )
    if freeze_inputs and model.ir_version >= 4:
        needed = list(user_inputs(model))
        del model.graph.input[:]
        model.graph.input.extend(needed)
    return model


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


def save_onnx(model: onnx.ModelProto, path: Path, original: Path | None = None) -> None:
    """Write a model with all its data in one file, whole or not at all."""
    with replacing(path, original) as temporary:
        temporary.write_bytes(model.SerializeToString())
