"""An ONNX model without the numbers of its weights, where only what it is made of counts."""

from __future__ import annotations

from typing import Final

import onnx

#: Shapes and settings are small; so are the numbers that a graph computes with beside its weights.
KEPT_BYTES: Final = 1 << 14


def light(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large weights as inputs: its shapes and types are the same."""
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
    listed = {info.name for info in whole.input}
    for tensor in whole.initializer:
        if tensor.ByteSize() <= KEPT_BYTES:
            thin.graph.initializer.append(tensor)
        elif tensor.name not in listed:
            kind, sizes = tensor.data_type, list(tensor.dims)
            thin.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, kind, sizes))
    return thin


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, light, with the shapes that onnx infers; without where it cannot."""
    thin = light(model)
    try:
        return onnx.shape_inference.infer_shapes(thin, data_prop=True)
    except Exception:  # an operator that it does not know: what has no shape is not folded
        return thin
