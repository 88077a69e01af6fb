"""Old forms of Resize and Upsample give what onnxruntime makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bncheck.runtime.reference import evaluator, in_float64
from bncheck.runtime.running import session_of

X = np.random.default_rng(0).standard_normal((1, 2, 5, 6)).astype(np.float32)
_FOR_NEAREST = {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "mode": "nearest"}
_ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def _model(
    kind: str, opset: int, settings: dict[str, Any], stored: dict[str, Any], inputs: list[str]
) -> onnx.ModelProto:
    node = helper.make_node(kind, inputs, ["y"], **settings)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", "c", "d"])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=4 if opset < 11 else 8)


def _check(model: onnx.ModelProto) -> None:
    (right,) = session_of(model).run(None, {"x": X})
    for run in (evaluator, in_float64):
        found = np.asarray(next(iter(run(model).run(None, {"x": X}))))
        assert found.shape == right.shape
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


_SCALES = ([1, 1, 2, 2], [1, 1, 3, 1], [1, 1, 2.5, 1.7])


@pytest.mark.parametrize("scales", _SCALES)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(
    ("kind", "opset"), [("Upsample", 7), ("Upsample", 8), ("Upsample", 9), ("Resize", 10)]
)
def test_places_of_old_forms_are_multiples(
    kind: str, opset: int, mode: str, scales: list[float]
) -> None:
    numbers = np.asarray(scales, np.float32)
    settings: dict[str, Any] = {"mode": mode}
    if opset < 9:
        _check(_model(kind, opset, {**settings, "scales": list(map(float, scales))}, {}, ["x"]))
    else:
        _check(_model(kind, opset, settings, {"s": numbers}, ["x", "s"]))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_a_resize_of_opset_10_may_make_smaller(mode: str) -> None:
    stored = {"s": np.array([1, 1, 0.6, 0.5], np.float32)}
    _check(_model("Resize", 10, {"mode": mode}, stored, ["x", "s"]))


@pytest.mark.parametrize("rounding", _ROUNDINGS)
@pytest.mark.parametrize("opset", [11, 12])
@pytest.mark.parametrize("by_sizes", [False, True])
def test_nearest_neighbours_of_tensorflow(opset: int, rounding: str, by_sizes: bool) -> None:
    settings = {**_FOR_NEAREST, "nearest_mode": rounding}
    empty = np.zeros(0, np.float32)
    stored = {"r": empty, "s": empty, "n": np.array([1, 2, 9, 4])}
    if not by_sizes:
        stored["s"] = np.array([1, 1, 2, 1.5], np.float32)
    names = ["x", "r", "s", *(["n"] if by_sizes else [])]
    _check(_model("Resize", opset, settings, {n: stored[n] for n in names[1:]}, names))


@pytest.mark.parametrize("rounding", _ROUNDINGS)
def test_others_are_left_to_onnx(rounding: str) -> None:
    settings = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": rounding}
    stored = {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 2], np.float32)}
    _check(_model("Resize", 11, settings, stored, ["x", "r", "s"]))
