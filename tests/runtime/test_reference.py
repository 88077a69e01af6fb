"""Operators of old versions, which onnx' own reference does not have."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bncheck.runtime.reference import evaluator, in_float64
from bncheck.runtime.running import reporting


def _run(node: onnx.NodeProto, opset: int, x: Any, **stored: Any) -> Any:
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)
    narrow, wide = (next(iter(run(model).run(None, {"x": x}))) for run in (evaluator, in_float64))
    np.testing.assert_allclose(np.asarray(narrow), np.asarray(wide), rtol=1e-6)
    return narrow


X = np.arange(24, dtype=np.float32).reshape(2, 3, 4) + 1


@pytest.mark.parametrize(
    ("kind", "right"),
    [("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply), ("Div", np.divide)],
)
def test_the_second_operand_lies_along_the_axis_that_is_said(kind: str, right: Any) -> None:
    y = np.array([1, 2, 4], np.float32)
    node = helper.make_node(kind, ["x", "s"], ["y"], broadcast=1, axis=1)
    np.testing.assert_array_equal(_run(node, 6, X, s=y), right(X, y[:, None]))


@pytest.mark.parametrize("shape", [(3, 4), (12,)])
@pytest.mark.parametrize("opset", [6, 8])
def test_a_norm_may_have_statistics_for_each_place(opset: int, shape: tuple[int, ...]) -> None:
    stored = {n: np.linspace(k, 9, 12, dtype=np.float32) for k, n in enumerate("smbv", 1)}
    given: dict[str, Any] = {"spatial": 0} | ({"is_test": 1} if opset == 6 else {})
    node = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], **given)
    scale, bias, mean, var = (stored[name].reshape(3, 4) for name in "sbmv")
    right = (X - mean) / np.sqrt(var + 1e-5) * scale + bias
    shaped = {name: numbers.reshape(shape) for name, numbers in stored.items()}
    np.testing.assert_allclose(_run(node, opset, X, **shaped), right, rtol=1e-5)


def test_without_an_axis_it_lies_along_the_last_ones() -> None:
    y = np.array([1, 2, 4, 8], np.float32)
    node = helper.make_node("Mul", ["x", "s"], ["y"], broadcast=1)
    np.testing.assert_array_equal(_run(node, 6, X, s=y), X * y)
    np.testing.assert_array_equal(_run(helper.make_node("Add", ["x", "x"], ["y"]), 6, X), X + X)


@pytest.mark.parametrize("opset", [13, 17, 19])
def test_small_integers_have_a_step_for_each_place_of_an_axis(opset: int) -> None:
    x = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    step, zero = np.array([0.5, 1, 2], np.float32), np.array([1, 0, -1], np.int8)
    node = helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"], axis=0)
    right = (x.astype(np.float32) - zero[:, None]) * step[:, None]
    np.testing.assert_array_equal(_run(node, opset, x, s=step, z=zero), right)


_POOLS = [
    ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 2, 1]}),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1, "pads": [1, 1, 1, 1]}),
    ("MaxPool", {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [1, 1, 2, 0]}),
    ("AveragePool", {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 2]}),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1,
                     "count_include_pad": 1, "pads": [1, 1, 1, 1]}),
    ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings"), _POOLS)
@pytest.mark.parametrize("size", [(7, 9), (8, 8)])
def test_pooling_is_what_onnxruntime_computes(
    kind: str, settings: dict[str, Any], size: tuple[int, int]
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    x = np.random.default_rng(0).normal(-3, 1, (2, 3, *size)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node(kind, ["x"], ["y"], **settings)], "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    (right,) = runtime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    for side in (evaluator(model), in_float64(model)):
        (found,) = side.run(None, {"x": x})
        np.testing.assert_allclose(np.asarray(found), right, rtol=1e-5, atol=1e-6)


def test_a_norm_gives_the_dtype_that_it_is_given() -> None:
    """bfloat16 and a number of Python are float32 in NumPy; the next operator would refuse that."""
    half = np.dtype(ml_dtypes.bfloat16)
    x, stored = X.astype(half), {name: np.ones(3, half) for name in "smbv"}
    node = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])
    graph = helper.make_graph(
        [node], "graph",
        [helper.make_tensor_value_info("x", TensorProto.BFLOAT16, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, x.shape)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert evaluator(model).run(None, {"x": x})[0].dtype == half  # type: ignore[index]


def test_other_sizes_are_not_tried_where_dtypes_do_not_fit() -> None:
    node = helper.make_node("Mul", ["x", "z"], ["y"])
    kinds = (("x", TensorProto.FLOAT), ("z", TensorProto.DOUBLE))
    graph = helper.make_graph(
        [node], "graph", [helper.make_tensor_value_info(name, kind, ["N"]) for name, kind in kinds],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
    )  # fmt: skip
    run = reporting(evaluator(helper.make_model(graph)))
    with pytest.raises(NotImplementedError, match="Mul"):
        run({"x": np.zeros(2, np.float32), "z": np.zeros(2)})
