"""inspect and fold take the same numbers for constant, and list the same layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import bncheck
from bncheck.core.errors import BncheckError
from bncheck.folding.fold import FoldOptions
from bncheck.reading import onnx_constants
from bncheck.reading.onnx_constants import Resolver
from tests.folding.onnx.graphs.building import conv, fold_onnx

SHARED = Path("/work/shared")
ROLES = ("weight", "bias", "running_mean", "running_var")
VALUES = {
    role: np.array([0.5, 1.0, 1.5, 2.0], np.float32) + place for place, role in enumerate(ROLES)
}

Nodes = Callable[[str, Any], tuple[list[onnx.NodeProto], dict[str, Any]]]


def _int(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


def _cast(name: str, value: Any) -> Any:
    return [helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)], {
        f"{name}.half": value.astype(np.float16)
    }


def _floats(name: str, value: Any) -> Any:
    return [helper.make_node("Constant", [], [name], value_floats=value.tolist())], {}


def _reshaped(name: str, value: Any) -> Any:
    nodes = [
        helper.make_node("Reshape", [f"{name}.2d", "flat"], [f"{name}.1d"]),
        helper.make_node("Identity", [f"{name}.1d"], [name]),
    ]
    return nodes, {f"{name}.2d": value.reshape(2, 2), "flat": _int(-1)}


def _squeezed(name: str, value: Any) -> Any:
    nodes = [
        helper.make_node("Unsqueeze", [f"{name}.1d", "axis"], [f"{name}.2d"]),
        helper.make_node("Squeeze", [f"{name}.2d", "axis"], [name]),
    ]
    return nodes, {f"{name}.1d": value, "axis": _int(0)}


def _dequantized(name: str, value: Any) -> Any:
    return [helper.make_node("DequantizeLinear", [f"{name}.q", "step"], [name])], {
        f"{name}.q": np.round(value * 2).astype(np.int8),
        "step": np.float32(0.5),
    }


def _filled(name: str, value: Any) -> Any:
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["four"], [f"{name}.0"], value=numpy_helper.from_array(value[:1])
        ),
        helper.make_node("Add", [f"{name}.0", f"{name}.rest"], [name]),
    ]
    return nodes, {"four": _int(4), f"{name}.rest": value - value[0]}


def _model(make: Nodes, values: dict[str, Any] | None = None) -> onnx.ModelProto:
    nodes = [conv()]
    stored: dict[str, Any] = {"conv.weight": np.ones((4, 3, 3, 3), np.float32)}
    for role in ROLES:
        more, tensors = make(f"bn.{role}", (values or VALUES)[role])
        nodes += more
        stored |= tensors
    names = ["c", *(f"bn.{role}" for role in ROLES)]
    nodes.append(helper.make_node("BatchNormalization", names, ["y"]))
    return _whole(nodes, stored)


def _whole(nodes: list[onnx.NodeProto], stored: dict[str, Any], opset: int = 17) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    )
    return model


@pytest.mark.parametrize("make", [_cast, _floats, _reshaped, _squeezed, _dequantized, _filled])
def test_numbers_that_are_computed_are_read(make: Nodes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(_model(make), path)
    report = bncheck.inspect(path)
    assert report.findings == ()
    assert [layer.name for layer in report.layers] == ["bn"]
    layer = report.layers[0]
    found = (layer.weight, layer.bias, layer.mean, layer.var)
    for array, right in zip(found, VALUES.values(), strict=True):
        np.testing.assert_array_equal(array, right)
    decisions = fold_onnx(path, FoldOptions(dry_run=True))[0].batchnorms
    assert [(d.name, d.into) for d in decisions] == [("bn", ("conv",))]


def test_what_is_not_finite_after_a_cast_is_found(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    values = VALUES | {"running_var": np.array([1, np.inf, 1, 1], np.float32)}
    onnx.save(_model(_cast, values), path)
    assert [finding.rule for finding in bncheck.inspect(path).findings] == ["BN102"]


def test_a_layer_is_there_once_though_its_stored_tensors_have_its_name(tmp_path: Path) -> None:
    nodes = [conv()]
    stored: dict[str, Any] = {"conv.weight": np.ones((4, 3, 3, 3), np.float32)}
    for role, value in VALUES.items():
        nodes.append(helper.make_node("Neg", [f"bn.{role}"], [f"{role}_neg"]))
        stored[f"bn.{role}"] = -value
    nodes.append(helper.make_node("BatchNormalization", ["c", *(f"{r}_neg" for r in ROLES)], ["y"]))
    path = tmp_path / "net.onnx"
    onnx.save(_whole(nodes, stored), path)
    (layer,) = bncheck.inspect(path).layers
    assert layer.name == "bn"
    np.testing.assert_array_equal(layer.var, VALUES["running_var"])
    assert [d.name for d in fold_onnx(path, FoldOptions(dry_run=True))[0].batchnorms] == ["bn"]


@pytest.mark.parametrize(("opset", "training"), [(8, False), (6, True)])
def test_old_attributes_mean_the_same_to_both(opset: int, training: bool, tmp_path: Path) -> None:
    """spatial=0 (opset 8) has statistics for each place; without is_test (opset 6) it trains."""
    names = ["c", *(f"bn.{role}" for role in ROLES)]
    attributes: dict[str, Any] = {"spatial": 0} if opset == 8 else {}
    nodes = [conv(), helper.make_node("BatchNormalization", names, ["y"], **attributes)]
    stored = {f"bn.{role}": value for role, value in VALUES.items()}
    path = tmp_path / "net.onnx"
    weight = {"conv.weight": np.ones((4, 3, 3, 3), np.float32)}
    onnx.save(_whole(nodes, stored | weight, opset), path)
    (layer,) = bncheck.inspect(path).layers
    (decision,) = fold_onnx(path, FoldOptions(dry_run=True))[0].batchnorms
    assert (layer.name, layer.training) == (decision.name, training) == ("bn", training)
    assert ("training mode" if training else "spatial=0") in decision.reason


def _files() -> list[Path]:
    found = [*SHARED.glob("cases/*.onnx"), *SHARED.glob("real/onnx/*.onnx")]
    return sorted(found)


@pytest.mark.parametrize("path", _files(), ids=lambda path: path.name)
def test_both_list_the_same_layers_of_files_of_others(path: Path) -> None:
    listed = sorted(layer.name for layer in bncheck.inspect(path).layers)
    decisions = fold_onnx(path, FoldOptions(dry_run=True))[0].batchnorms
    nodes = [decision for decision in decisions if decision.op != "mul+add"]
    assert sorted(decision.name for decision in nodes) == listed


def _constants(nodes: list[onnx.NodeProto], stored: dict[str, Any]) -> Any:
    model = _whole(nodes, stored)
    resolver = Resolver(model)
    known = {t.name: resolver.stored(t.name, t) for t in model.graph.initializer}
    for node in nodes:
        results = resolver.outputs(node, known) or ()
        known |= dict(zip(node.output, results, strict=False))
    return known


@pytest.mark.parametrize(
    ("node", "sizes"),
    [
        (helper.make_node("ConstantOfShape", ["sizes"], ["y"]), [1 << 40]),
        (helper.make_node("Expand", ["one", "sizes"], ["y"]), [1 << 20, 1 << 20]),
        (helper.make_node("Tile", ["one", "sizes"], ["y"]), [1 << 40]),
        (helper.make_node("Range", ["zero", "sizes", "step"], ["y"]), 1 << 40),
    ],
)
def test_a_few_bytes_do_not_fill_the_memory(node: onnx.NodeProto, sizes: Any) -> None:
    stored: dict[str, Any] = {"sizes": np.array(sizes, np.int64), "one": np.array([1], np.float32)}
    stored |= {"zero": np.int64(0), "step": np.int64(1)}
    assert "y" not in _constants([node], stored)


def test_many_calls_together_do_not_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_constants, "MAX_COMPUTED_NUMBERS", 1 << 16)
    nodes = [helper.make_node("ConstantOfShape", ["sizes"], ["v0"])]
    nodes += [helper.make_node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(1 << 5)]
    sizes = {"sizes": _int(1 << 10)}
    with pytest.raises(bncheck.BncheckError, match="MAX_COMPUTED_NUMBERS"):
        _constants(nodes, sizes)[nodes[-1].output[0]].read()


def test_a_long_chain_does_not_recurse_endlessly() -> None:
    nodes = [helper.make_node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(2001)]
    known = _constants(nodes, {"v0": np.array([1.0], np.float32)})
    assert known["v2001"].read().tolist() == [-1.0]


def test_what_depends_on_the_input_or_on_chance_is_not_constant() -> None:
    nodes = [
        helper.make_node("Add", ["x", "one"], ["a"]),
        helper.make_node("RandomNormalLike", ["one"], ["b"]),
        helper.make_node("Neg", ["one"], ["c"], domain="com.example"),
    ]
    assert set(_constants(nodes, {"one": np.array([1], np.float32)})) == {"one"}


@pytest.mark.parametrize("kind", ["Constant", "Neg", "Shape", "Split", "MatMul", "CastLike", "Sum"])
@pytest.mark.parametrize(("inputs", "outputs"), [(["x"], []), ([], []), ([], ["z"])])
def test_a_node_without_its_inputs_or_results_is_passed_over(
    kind: str, inputs: list[str], outputs: list[str], tmp_path: Path
) -> None:
    model = _model(_cast)
    model.graph.node.insert(0, helper.make_node(kind, inputs, outputs))
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    assert [layer.name for layer in bncheck.inspect(path).layers] == ["bn"]
    decisions = fold_onnx(path, FoldOptions(dry_run=True))[0].batchnorms
    assert [decision.name for decision in decisions] == ["bn"]


@pytest.mark.parametrize(
    ("node", "stored", "opset"),
    [
        (helper.make_node("Softmax", ["a"], ["y"], axis=1), {"a": np.ones((1, 2, 2), "f")}, 12),
        (helper.make_node("LpNormalization", ["a"], ["y"], p=1), {"a": -np.ones(2, "f")}, 22),
        (
            helper.make_node("OneHot", ["a", "b", "c"], ["y"]),
            {"a": np.array([1.7], "f"), "b": np.float32(3), "c": np.array([2, 7], "f")},
            17,
        ),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_what_the_reference_computes_otherwise_than_runtimes_is_not_constant(
    node: onnx.NodeProto, stored: dict[str, Any], opset: int
) -> None:
    import onnxruntime
    from onnx.reference import ReferenceEvaluator

    model = _whole([node], stored, opset)
    del model.graph.input[:]
    resolver = Resolver(model)
    known = {t.name: resolver.stored(t.name, t) for t in model.graph.initializer}
    assert resolver.outputs(node, known) is None
    runs = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})[0]
    [reference] = ReferenceEvaluator(model).run(None, {})
    assert not np.allclose(np.asarray(runs), np.asarray(reference))  # else it may be computed again


def test_an_operand_that_lies_along_an_axis_as_before_opset_7_is_not_computed() -> None:
    """The reference has the later meaning alone."""
    old = helper.make_node("Add", ["a", "b"], ["y"], broadcast=1, axis=0)
    stored = {"a": np.ones((2, 3), np.float32), "b": np.ones(2, np.float32)}
    model = _whole([old], stored, opset=6)
    resolver = Resolver(model)
    known = {t.name: resolver.stored(t.name, t) for t in model.graph.initializer}
    assert resolver.outputs(old, known) is None


def test_no_file_is_opened_for_numbers_outside_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnx would take them from the folder that the command was started in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside").write_bytes(np.ones(4, np.float32).tobytes())
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="beside")
    model = _whole([], {"v": np.ones(2, np.float32)})
    literal = helper.make_node("Constant", [], ["c"], value=tensor)
    resolver = Resolver(model)
    (constant,) = resolver.outputs(literal, {}) or ()
    for stored in (resolver.stored("w", tensor), constant):
        with pytest.raises(BncheckError, match="in another file"):
            stored.read()
