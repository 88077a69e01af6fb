"""An ONNX model without the numbers of its weights, where only what it is made of counts."""

from __future__ import annotations

import math
from typing import Final

import onnx

from bncheck.graph.onnx.nodes import FLOATS
from bncheck.reading.onnx_constants import opset_of
from bncheck.reading.onnx_doubts import is_external
from bncheck.reading.onnx_names import STANDARD
from bncheck.reading.onnx_omitted import name_omitted
from bncheck.reading.onnx_weights import KEPT_BYTES

#: Shapes follow from whole numbers, and from those few others that scale a size.
_MOST_SCALES: Final = 64


def light(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its weights as inputs: its shapes and types are the same."""
    whole = model.graph
    imports = list(model.opset_import)
    if not any(each.domain in STANDARD for each in imports):  # before IR 3 none was named
        imports.append(onnx.helper.make_opsetid("", opset_of(model)))
    thin = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=imports,
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
        if _may_tell_sizes(tensor):
            thin.graph.initializer.append(tensor)
        elif tensor.name not in listed:
            kind, sizes = tensor.data_type, list(tensor.dims)
            thin.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, kind, sizes))
    return thin


def _may_tell_sizes(tensor: onnx.TensorProto) -> bool:
    few: bool = tensor.ByteSize() <= KEPT_BYTES
    if tensor.data_type in FLOATS:
        few = math.prod(tensor.dims) <= _MOST_SCALES
    return few and not is_external(tensor)


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, light, with the shapes that onnx infers; without where it cannot.

    All its results have names, also those that the model leaves out.
    """
    thin = light(model)
    name_omitted(thin, every=True)
    try:
        return onnx.shape_inference.infer_shapes(thin, data_prop=True)
    except Exception:  # an operator that it does not know: what has no shape is not folded
        return thin
