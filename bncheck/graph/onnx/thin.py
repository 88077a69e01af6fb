"""The graph of an ONNX model without the numbers of its weights, which may be gigabytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bncheck.graph.dataflow import Graph
from bncheck.graph.onnx.read import read_model
from bncheck.graph.operators import UndescribedError
from bncheck.reading.onnx_constants import held
from bncheck.reading.onnx_weights import KEPT_BYTES

if TYPE_CHECKING:
    import onnx

    from bncheck.reading.tensors import Array


def main_graph(model: onnx.ModelProto) -> Graph:
    """The graph of the model; the numbers of large tensors are to be read elsewhere."""
    return read_model(model, _small)[0].graph


def _small(tensor: onnx.TensorProto) -> Array:
    if tensor.ByteSize() > KEPT_BYTES:
        raise UndescribedError  # a call that rests on them; weights are read by their names
    return held(tensor)
