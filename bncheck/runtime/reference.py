"""An ONNX model run by onnx's reference evaluator: as it is, or in float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bncheck.graph.onnx.nodes import names_in
from bncheck.reading.onnx_constants import opset_of
from bncheck.reading.onnx_file import graphs_of
from bncheck.reading.onnx_names import STANDARD
from bncheck.runtime.operators import own_operators
from bncheck.runtime.weights import Weights

_NARROW = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
}
_DOUBLE = onnx.TensorProto.DOUBLE
_DTYPE_ATTRIBUTES = ("to", "dtype")
Watch: TypeAlias = Callable[[str, Any], None]


def evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    """The model as it is, by the reference."""
    return ReferenceEvaluator(with_opset(model), new_ops=own_operators(opset_of(model)))


def with_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the version of its operators named, which was not done before IR 3."""
    if any(each.domain in STANDARD for each in model.opset_import):
        return model
    new = onnx.ModelProto()
    new.CopyFrom(model)
    new.opset_import.append(helper.make_opsetid("", opset_of(model)))
    new.ir_version = max(new.ir_version, 3)
    return new


class InFloat64:
    """A model with every narrower floating tensor, constant and cast made float64.

    Weights are widened where they are read, and values go with their last reader, so that a model
    takes little more room than it has itself.
    """

    def __init__(self, model: onnx.ModelProto, weights: Weights) -> None:
        self._weights = weights
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        wide = _without_weights(model)
        for graph in graphs_of(wide.graph):
            del graph.value_info[:]
            for info in (*graph.input, *graph.output):
                if info.type.tensor_type.elem_type in _NARROW:
                    info.type.tensor_type.elem_type = _DOUBLE
            for tensor in graph.initializer:
                _widen(tensor)
            for node in graph.node:
                _widen_node(node)
        self._evaluator = evaluator(wide)
        self._steps = [
            (node, list(node.input), bool(node.need_context()))
            for node in self._evaluator.rt_nodes_
        ]
        self._last = {name: i for i, (_, reads, _) in enumerate(self._steps) for name in reads}

    def run(
        self, names: Sequence[str] | None, inputs: Mapping[str, Any], watch: Watch | None = None
    ) -> list[Any]:
        """The outputs of that name, or all; `watch` sees every value with its name.

        Raises what onnx's evaluator raises.
        """
        wanted = list(self._evaluator.output_names if names is None else names)
        values: dict[str, Any] = {"": None, **self._evaluator.rt_inits_, **inputs}
        keeps = any(inner for *_, inner in self._steps)  # who reads what inside is not known here
        if keeps:
            values |= {name: self._weight(name) for name in self._stored if name not in inputs}
        for place, (node, reads, inner) in enumerate(self._steps):
            given = [values[n] if n in values else self._weight(n) for n in reads]
            results = _results(node, given, values if inner else None)
            pairs = zip(node.output, results, strict=False)
            made = [(name, value) for name, value in pairs if name]  # "" is what is left out
            values.update(made)
            if watch is not None:
                for name, value in made:
                    watch(name, value)
            if not keeps:
                for name in {n for n in reads if self._last[n] == place and n not in wanted}:
                    values.pop(name, None)
        return [values[n] if n in values else self._weight(n) for n in wanted]

    def _weight(self, name: str) -> Any:
        if name not in self._stored:
            raise RuntimeError(f"nothing makes {name!r}")
        array = self._weights.numbers(self._stored[name])
        return array.astype(np.float64) if self._stored[name].data_type in _NARROW else array


def _results(node: Any, given: Sequence[Any], context: Mapping[str, Any] | None) -> Any:
    """What a node makes; what it raises begins with the operator's name."""
    try:
        return node.run(*given) if context is None else node.run(*given, context=context)
    except Exception as error:
        error.args = (f"{node.onnx_node.op_type}: {error}",)
        raise


def in_float64(model: onnx.ModelProto, weights: Weights | None = None) -> InFloat64:
    """The model in float64; `weights` are what it refers to."""
    return InFloat64(model, weights or Weights())


def widened_by_reader(model: onnx.ModelProto) -> set[str]:
    """What only convolutions read as their kernel: operators.py widens it where it is read."""
    convolutions = (n for n in model.graph.node if n.op_type == "Conv" and n.domain in STANDARD)
    reads = names_in(model.graph)
    own = Counter(node.input[1] for node in convolutions)
    return {name for name, times in own.items() if reads[name] == times}


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        functions=model.functions,
        graph=onnx.GraphProto(
            name=model.graph.name,
            node=model.graph.node,
            input=model.graph.input,
            output=model.graph.output,
            sparse_initializer=model.graph.sparse_initializer,
        ),
    )


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
