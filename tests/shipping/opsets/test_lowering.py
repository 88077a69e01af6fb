"""Every call of opset 18 that older opsets write otherwise computes the same there."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bncheck.core.errors import BncheckError
from bncheck.shipping.opsets.lowering import lowered

X = np.random.default_rng(0).normal(0, 1.5, (2, 4, 6, 6)).astype(np.float32)
INT = np.int64


def _model(kind: str, settings: dict[str, Any], inputs: list[Any], outputs: int) -> onnx.ModelProto:
    """One call on X, which has a free batch, and on stored numbers; None leaves an input out."""
    stored = {f"w{i}": np.asarray(value) for i, value in enumerate(inputs) if value is not None}
    names = [f"w{i}" if value is not None else "" for i, value in enumerate(inputs)]
    results = [f"y{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", *names], results, **settings)], "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *X.shape[1:]])],
        [helper.make_empty_tensor_value_info(name) for name in results],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    known = onnx.shape_inference.infer_shapes(model).graph.output
    model.graph.ClearField("output")
    model.graph.output.extend(known)
    return model


def _run(model: onnx.ModelProto) -> list[Any]:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return list(runtime.InferenceSession(model.SerializeToString(), options).run(None, {"x": X}))


_SAME = [
    ("ReduceMean", {"keepdims": 0}, [np.array([2, -1], INT)], 1),
    ("ReduceSum", {}, [np.array([1], INT)], 1),
    ("ReduceMax", {"noop_with_empty_axes": 1}, [], 1),
    ("ReduceL2", {"keepdims": 0}, [], 1),
    ("Unsqueeze", {}, [np.array([0, -1], INT)], 1),
    ("Split", {"axis": 1, "num_outputs": 2}, [], 2),
    ("Split", {"axis": 3, "num_outputs": 4}, [], 4),
    ("Split", {"axis": 1}, [np.array([1, 3], INT)], 2),
    ("Shape", {}, [], 1),
    ("Shape", {"start": 1, "end": -1}, [], 1),
    ("Reshape", {"allowzero": 1}, [np.array([-1, 4, 36], INT)], 1),
    ("Softmax", {"axis": 1}, [], 1),
    ("Softmax", {}, [], 1),
    ("LogSoftmax", {"axis": -2}, [], 1),
    ("Pad", {"mode": "reflect"}, [np.array([1, 0, 2, 3], INT), None, np.array([2, -1], INT)], 1),
    ("Pad", {}, [np.array([0, 1, 1, 0, 0, 0, 2, 0], INT), np.float32(7)], 1),
    ("Resize", {"mode": "linear"}, [None, None, np.array([2, 4, 9, 11], INT)], 1),
    ("Resize", {"mode": "cubic", "axes": [2, 3]}, [None, np.array([2, 1.5], np.float32)], 1),
    ("Resize", {"mode": "nearest"}, [None, np.array([1, 1, 2, 2], np.float32)], 1),
    ("HardSwish", {}, [], 1),
    ("Mish", {}, [], 1),
    ("Celu", {"alpha": 0.7}, [], 1),
    ("GreaterOrEqual", {}, [X[0, 0, 0, 0]], 1),
    ("LessOrEqual", {}, [X[0, 0, 0, 0]], 1),
    ("Trilu", {"upper": 0}, [np.array(1, INT)], 1),
    ("Trilu", {}, [], 1),
    ("Pow", {}, [np.array(3, INT)], 1),
    ("ArgMax", {"axis": 1, "select_last_index": 0}, [], 1),
    ("LayerNormalization", {"axis": -2, "epsilon": 1e-3},
     [np.linspace(-1, 2, 36, dtype=np.float32).reshape(6, 6), np.ones((6, 6), np.float32)], 1),
    ("LayerNormalization", {"axis": 1}, [np.full((4, 6, 6), 2, np.float32)], 1),
    ("BatchNormalization", {"training_mode": 0},
     [np.array([1, 2, 3, 4], np.float32)] * 4, 1),
    ("CastLike", {}, [np.array(1, np.float64)], 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "settings", "inputs", "outputs"),
    _SAME,
    ids=[f"{i}-{c[0]}" for i, c in enumerate(_SAME)],
)
def test_a_call_computes_the_same(
    kind: str, settings: dict[str, Any], inputs: list[Any], outputs: int
) -> None:
    model = _model(kind, settings, inputs, outputs)
    right = _run(model)
    for opset in range(11, 18):
        older = lowered(model, opset)
        assert [o.version for o in older.opset_import] == [opset]
        onnx.checker.check_model(older, full_check=True)
        for found, expected in zip(_run(older), right, strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)
    assert model.opset_import[0].version == 18


@pytest.mark.parametrize(
    ("kind", "settings", "inputs", "opset", "words"),
    [
        ("Einsum", {"equation": "abcd,dd->abc"}, [np.eye(6, dtype=np.float32)], 11, "no Einsum"),
        ("GridSample", {}, [np.zeros((2, 3, 3, 2), np.float32)], 15, "no GridSample"),
        ("ArgMax", {"select_last_index": 1}, [], 11, "ArgMax with select_last_index"),
        ("Split", {"axis": 0, "num_outputs": 2}, [], 17, "Split into parts of a size"),
        ("Reshape", {"allowzero": 1}, [np.array([0, 4], INT)], 13, "Reshape to a size of 0"),
    ],
)
def test_what_cannot_be_written_is_named(
    kind: str, settings: dict[str, Any], inputs: list[Any], opset: int, words: str
) -> None:
    model = _model(kind, settings, inputs, 1)
    with pytest.raises(BncheckError, match=words):
        lowered(model, opset)


def test_numbers_that_are_computed_are_no_attribute() -> None:
    model = _model("ReduceMean", {}, [np.array([1], INT)], 1)
    del model.graph.initializer[:]
    model.graph.node.insert(0, helper.make_node("Shape", ["x"], ["w0"], start=1, end=2))
    with pytest.raises(BncheckError, match="ReduceMean takes its numbers from a computation"):
        lowered(model, 17)


def test_whole_numbers_go_through_double() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Max", ["s", "five"], ["m"]),
        helper.make_node("Clip", ["m", "", "six"], ["y0"]),
    ]
    model = _model("Relu", {}, [], 1)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y0", TensorProto.INT64, [4]))
    pairs = (("five", np.array([5], INT)), ("six", np.array(6, INT)))
    model.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in pairs)
    (found,) = _run(lowered(model, 11))
    assert found.dtype == INT
    assert list(found) == [5, 5, 6, 6]


def _unchecked(kind: str, settings: dict[str, Any], results: int) -> onnx.ModelProto:
    """A call that no checker has seen."""
    nodes = [
        helper.make_node(kind, ["x", "w"][: 1 + (kind != "Split")], _names(results), **settings)
    ]
    graph = helper.make_graph(
        nodes, "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_empty_tensor_value_info("y0")],
        [numpy_helper.from_array(np.ones(4, np.float32), "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def _names(count: int) -> list[str]:
    return [f"y{place}" for place in range(count)]


@pytest.mark.parametrize(
    ("kind", "settings", "results"),
    [
        ("Split", {"axis": 1, "num_outputs": 10**12}, 2),
        ("Split", {"axis": 1, "num_outputs": -3}, 2),
        ("Split", {"axis": 1, "num_outputs": 7}, 7),
        ("LayerNormalization", {"axis": -(10**12)}, 1),
    ],
)
def test_absurd_settings_are_refused_at_once(
    kind: str, settings: dict[str, Any], results: int
) -> None:
    with pytest.raises(BncheckError, match=f"it has no {kind}"):
        lowered(_unchecked(kind, settings, results), 11)
