"""An ONNX model run by onnx's reference evaluator: as it is, or in float64."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bncheck.folding.onnx.operators import own_operators
from bncheck.reading.onnx_constants import opset_of
from bncheck.reading.onnx_file import graphs_of

_NARROW = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
}
_DOUBLE = onnx.TensorProto.DOUBLE
_DTYPE_ATTRIBUTES = ("to", "dtype")


def evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    """The model as it is, by the reference."""
    return ReferenceEvaluator(model, new_ops=own_operators(opset_of(model)))


def in_float64(model: onnx.ModelProto) -> ReferenceEvaluator:
    """The model with every narrower floating tensor, constant and cast made float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for graph in graphs_of(wide.graph):
        del graph.value_info[:]
        for info in (*graph.input, *graph.output):
            if info.type.tensor_type.elem_type in _NARROW:
                info.type.tensor_type.elem_type = _DOUBLE
        for tensor in graph.initializer:
            _widen(tensor)
        for node in graph.node:
            _widen_node(node)
    return evaluator(wide)


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _NARROW:
        numbers = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))


def _widen_node(node: onnx.NodeProto) -> None:
    for attribute in list(node.attribute):
        if attribute.name in _DTYPE_ATTRIBUTES and attribute.i in _NARROW:
            attribute.i = _DOUBLE
        if attribute.HasField("t"):
            _widen(attribute.t)
        if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            numbers = np.asarray(helper.get_attribute_value(attribute), dtype=np.float64)
            node.attribute.remove(attribute)
            tensor = numpy_helper.from_array(numbers)
            node.attribute.append(helper.make_attribute("value", tensor))
    if node.op_type == "ConstantOfShape" and not node.attribute:  # float32 zeros by default
        zero = numpy_helper.from_array(np.zeros(1))
        node.attribute.append(helper.make_attribute("value", zero))
