"""An ONNX model whose large weights lie outside it, once, for all sessions that run it.

A session that is made of bytes copies every weight twice: into the message, and out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import numpy_helper

from bncheck.reading.onnx_weights import KEPT_BYTES

#: What onnxruntime takes from NumPy as it is.
_LENT = {
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE,
    onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32, onnx.TensorProto.INT64,
}  # fmt: skip


@dataclass(frozen=True)
class Lent:
    """A model, and by name the values of the weights that it only mentions."""

    model: onnx.ModelProto
    values: Mapping[str, Any] = field(default_factory=dict)


def lent(model: onnx.ModelProto) -> Lent:
    """The model with its large weights beside it. Raises ImportError without onnxruntime."""
    import onnxruntime

    whole = model.graph
    thin = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        functions=model.functions,
        graph=onnx.GraphProto(
            name=whole.name,
            node=whole.node,
            input=whole.input,
            output=whole.output,
            value_info=whole.value_info,
            sparse_initializer=whole.sparse_initializer,
        ),
    )
    values = {}
    for tensor in whole.initializer:
        if tensor.data_type not in _LENT or tensor.ByteSize() <= KEPT_BYTES:
            thin.graph.initializer.append(tensor)
            continue
        mentioned = thin.graph.initializer.add(name=tensor.name, data_type=tensor.data_type)
        mentioned.dims.extend(tensor.dims)
        mentioned.data_location = onnx.TensorProto.EXTERNAL
        mentioned.external_data.add(key="location", value="lent")
        numbers = numpy_helper.to_array(tensor)
        values[tensor.name] = onnxruntime.OrtValue.ortvalue_from_numpy(numbers)
    return Lent(thin, values)
