"""The numbers of large weights, which lie beside the message that refers to them.

A message is copied on its way from a file through a plan and two sessions into another file, and
most of a model is weights. So its large initialisers stay references, as external data are, and
what a fold computes becomes references, too. They go with every copy of the message and of its
parts; nothing of another make finds what they refer to.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bncheck.reading.onnx_constants import held
from bncheck.reading.onnx_doubts import is_external
from bncheck.reading.onnx_weights import ITEM_BYTES, KEPT_BYTES

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array


class Weights:
    """What the references in a model and its copies stand for; read once, when it is asked for.

    `load` reads a tensor that is a reference already.
    """

    def __init__(self, load: Callable[[onnx.TensorProto], Array] = held) -> None:
        self._load = load
        self._found: dict[tuple[object, ...], Array] = {}
        self._location = os.urandom(16).hex()  # so that no file can name it

    def numbers(self, tensor: onnx.TensorProto) -> Array:
        """The numbers of a tensor, be it a reference or not."""
        if not is_external(tensor):
            return held(tensor)
        key = _key(tensor)
        if key not in self._found:
            self._found[key] = self._load(tensor)
        return self._found[key]

    def tensor(self, name: str, array: Array) -> onnx.TensorProto:
        """New numbers for the outermost graph: a reference if they are many."""
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        made = onnx.TensorProto(name=name, data_type=kind, dims=array.shape)
        if not is_large(made):
            return numpy_helper.from_array(np.ascontiguousarray(array), name)
        made.data_location = onnx.TensorProto.EXTERNAL
        made.external_data.add(key="location", value=self._location)
        made.external_data.add(key="offset", value=str(len(self._found)))
        self._found[_key(made)] = np.ascontiguousarray(array)
        return made


def _key(tensor: onnx.TensorProto) -> tuple[object, ...]:
    """What a reference says: tensors of several shapes and dtypes may share the bytes of a file."""
    places = ((entry.key, entry.value) for entry in tensor.external_data)
    return tensor.data_type, tuple(tensor.dims), *places


def is_large(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor is worth a reference, and of a dtype that NumPy and runtimes exchange."""
    return bool(math.prod(tensor.dims) * ITEM_BYTES.get(tensor.data_type, 0) > KEPT_BYTES)


def references(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """The initialisers that are references; they are all in the outermost graph."""
    return (tensor for tensor in model.graph.initializer if is_external(tensor))


def fed(model: onnx.ModelProto, weights: Weights) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The model with what it refers to as inputs, and their values: a runtime copies none of it."""
    kept = [tensor for tensor in model.graph.initializer if not is_external(tensor)]
    listed = {info.name for info in model.graph.input}
    new = onnx.ModelProto()
    new.CopyFrom(model)
    del new.graph.initializer[:]
    new.graph.initializer.extend(kept)
    for value in (*new.graph.input, *new.graph.output, *new.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value <= 0:  # a free one, as converters write
                dim.Clear()
    for tensor in references(model):
        if tensor.name not in listed:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            new.graph.input.append(info)
    return new, {tensor.name: weights.numbers(tensor) for tensor in references(model)}


def whole(model: onnx.ModelProto, weights: Weights) -> onnx.ModelProto:
    """The model with all numbers in the message."""
    if not any(references(model)):
        return model
    new = onnx.ModelProto()
    new.CopyFrom(model)
    for tensor in references(new):
        tensor.CopyFrom(numpy_helper.from_array(weights.numbers(tensor), tensor.name))
    return new
