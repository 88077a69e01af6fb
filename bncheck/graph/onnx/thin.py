"""The graph of an ONNX model without the numbers of its weights, which may be gigabytes."""

from __future__ import annotations

import onnx

from bncheck.graph.dataflow import Graph
from bncheck.graph.onnx.read import read_model
from bncheck.reading.onnx_weights import KEPT_BYTES


def main_graph(model: onnx.ModelProto) -> Graph:
    """The graph of the model; the numbers of large tensors are to be read elsewhere."""
    return read_model(_thin(model))[0].graph


def _thin(model: onnx.ModelProto) -> onnx.ModelProto:
    thin = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    whole = model.graph
    thin.graph.MergeFrom(
        onnx.GraphProto(
            name=whole.name,
            node=whole.node,
            input=whole.input,
            output=whole.output,
            value_info=whole.value_info,
            sparse_initializer=whole.sparse_initializer,
        )
    )
    for tensor in whole.initializer:
        kept = tensor
        elsewhere = tensor.data_location == onnx.TensorProto.EXTERNAL
        if elsewhere or tensor.ByteSize() > KEPT_BYTES:
            kept = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        thin.graph.initializer.append(kept)
    return thin
