"""ONNX files as people have them: old ones, vague ones, those that only some runtime can run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.runtime.inputs import inputs_of, invented
from tests.folding.onnx.graphs import building as graphs
from tests.folding.onnx.graphs.building import fold_onnx

WEIGHTS = {"conv.weight": graphs.numbers(6, 3, 3, 3), **graphs.norm(6)}


def _saved(path: Path, nodes: list[onnx.NodeProto], **settings: Any) -> Path:
    file = path / "net.onnx"
    onnx.save(graphs.model(nodes, WEIGHTS, **settings), file)
    return file


@pytest.mark.parametrize("ir", [1, 2])
def test_before_ir_3_no_opset_was_named(ir: int, tmp_path: Path) -> None:
    old: dict[str, Any] = {"is_test": 1, "consumed_inputs": [0, 0, 0, 1, 1]}
    nodes = [graphs.conv(kernel_shape=[3, 3]), graphs.bn("c", "y", **old)]
    model = graphs.model(nodes, WEIGHTS, opset=1, ir=ir, listed=list(WEIGHTS))
    del model.opset_import[:]
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, ["N", 6, 7, 7]))
    onnx.save(model, tmp_path / "net.onnx")
    report, folded = fold_onnx(tmp_path / "net.onnx")
    assert report.folded == 1
    assert report.parity is not None
    assert report.parity.holds
    assert not folded.opset_import  # as it was
    assert folded.ir_version == ir


def test_a_sum_along_an_axis_has_the_shape_of_its_first_operand(tmp_path: Path) -> None:
    nodes = [
        graphs.conv(),
        helper.make_node("Add", ["c", "bn.bias"], ["d"], broadcast=1, axis=1),
        graphs.bn("d", "y", is_test=1),
    ]
    report, _ = fold_onnx(_saved(tmp_path, nodes, opset=6, ir=3, listed=list(WEIGHTS)))
    assert "rank" not in report.batchnorms[0].reason


@pytest.mark.parametrize("axis", [{}, {"axis": 1}])
def test_a_single_number_lies_along_any_axis(tmp_path: Path, axis: dict[str, Any]) -> None:
    """As torch 0.3 wrote x + 1: a stored number without axes, in opset 6."""
    one = numpy_helper.from_array(np.array(0.5, np.float32))
    nodes = [
        graphs.conv(),
        helper.make_node("Constant", [], ["one"], value=one),
        helper.make_node("Add", ["c", "one"], ["d"], broadcast=1, **axis),
        graphs.bn("d", "y", is_test=1),
    ]
    report, folded = fold_onnx(_saved(tmp_path, nodes, opset=6, ir=3))
    assert report.folded == 1
    assert "BatchNormalization" not in {node.op_type for node in folded.graph.node}


@pytest.mark.parametrize(
    ("kind", "domain", "imported"), [("DoNothing", "acme", True), ("Relu", "unknown", False)]
)
def test_an_operator_that_nobody_has_is_named(
    kind: str, domain: str, imported: bool, tmp_path: Path
) -> None:
    nodes = [graphs.conv(), graphs.bn("c", "d"), helper.make_node("Relu", ["d"], ["y"])]
    file = _saved(tmp_path, nodes)
    model = onnx.load(file)
    model.graph.node[2].op_type, model.graph.node[2].domain = kind, domain
    if imported:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    onnx.save(model, file)
    with pytest.raises(BncheckError, match=f"no runtime here has the operator {domain}.{kind}"):
        fold_onnx(file)


def test_an_input_without_a_rank_asks_for_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    file = _saved(tmp_path, [graphs.conv(), graphs.bn("c", "y")])
    model = onnx.load(file)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, file)
    arguments = ["fold", str(file), "-o", str(tmp_path / "out.onnx")]
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert "it does not say how many axes its input x has: Conv: " in said
    assert "ONNXRuntimeError" not in said
    np.save(tmp_path / "data.npy", graphs.numbers(4, 3, 8, 8))
    assert run([*arguments, "--data", str(tmp_path / "data.npy")]) == 0


def test_a_scalar_is_an_array_for_the_runtime() -> None:
    model = graphs.model([graphs.conv()], WEIGHTS, outputs=["c"])
    model.graph.input.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, []))
    model.graph.input.append(helper.make_tensor_value_info("k", TensorProto.BOOL, []))
    inputs = inputs_of(model)
    made = invented(inputs, {"N": 2}, np.random.default_rng(0))
    assert all(isinstance(value, np.ndarray) for value in made.values())
