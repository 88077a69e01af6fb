"""Every ONNX graph: folded to the ideal count, the same function, a model that onnx accepts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.reading.onnx_file import graphs_of
from bncheck.runtime.file import open_onnx
from bncheck.runtime.weights import whole
from tests.folding.onnx.graphs.building import bn, conv, conv_bn, fold_onnx, model, norm, numbers
from tests.folding.onnx.graphs.calls import CALLS
from tests.folding.onnx.graphs.moves import MOVES


def _count(model: onnx.ModelProto) -> int:
    graphs = graphs_of(model.graph)
    return sum(node.op_type == "BatchNormalization" for graph in graphs for node in graph.node)


PATTERNS = CALLS | MOVES


@pytest.mark.parametrize("name", PATTERNS)
def test_pattern(name: str, tmp_path: Path) -> None:
    build, kept = PATTERNS[name]
    path = tmp_path / "net.onnx"
    onnx.save(build(), path)
    report, folded = fold_onnx(path)
    onnx.checker.check_model(folded, full_check=name != "if_branch")
    assert _count(folded) == kept == len(report.kept), report.batchnorms
    assert (report.parity is None) == (kept == len(report.batchnorms))
    if report.parity is not None:
        assert report.parity.holds, report.parity
        assert report.parity.max_relative_error < (5e-3 if "fp16" in name else 5e-6)
    assert all(decision.reason for decision in report.kept)


def test_names_of_initialisers_and_outputs_are_kept(tmp_path: Path) -> None:
    onnx.save(conv_bn()(), tmp_path / "net.onnx")
    _, folded = fold_onnx(tmp_path / "net.onnx")
    assert [t.name for t in folded.graph.initializer] == ["conv.weight", "conv.bias"]
    assert [o.name for o in folded.graph.output] == ["y"]


def test_external_data_ends_up_in_one_file_that_runs(tmp_path: Path) -> None:
    model = conv_bn()()
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
    assert run(["fold", str(path), "-o", str(tmp_path / "folded.onnx")]) == 0
    x = np.random.default_rng(1).normal(size=(2, 3, 9, 9)).astype(np.float32)
    results = [
        onnxruntime.InferenceSession(str(tmp_path / name)).run(None, {"x": x})[0]
        for name in ("net.onnx", "folded.onnx")
    ]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-5)
    assert whole(*open_onnx(path)).graph.initializer[0].data_location != onnx.TensorProto.EXTERNAL


def _rows(path: Path) -> None:
    """Rows 0 to 3 of a table are those of inputs 9 to 12; fresh inputs are 0 and 1."""
    nodes = [
        conv(),
        bn("c", "n"),
        helper.make_node("Sub", ["row", "nine"], ["place"]),
        helper.make_node("Gather", ["table", "place"], ["rows"]),
        helper.make_node("Reshape", ["rows", "sizes"], ["wide"]),
        helper.make_node("Add", ["n", "wide"], ["y"]),
    ]
    weights = {
        "conv.weight": numbers(6, 3, 3, 3), **norm(6), "table": numbers(4, 6),
        "nine": np.array(9), "sizes": np.array([-1, 6, 1, 1]),
    }  # fmt: skip
    row = helper.make_tensor_value_info("row", onnx.TensorProto.INT64, ["N"])
    onnx.save(model(nodes, weights, inputs=[row]), path)


def test_a_model_that_takes_no_fresh_inputs_is_compared_on_data(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    _rows(path)
    with pytest.raises(BncheckError, match="cannot be run for the comparison"):
        fold_onnx(path)
    x = np.random.default_rng(1).normal(size=(4, 3, 9, 9)).astype(np.float32)
    report, _ = fold_onnx(path, samples=lambda _: {"x": x, "row": np.arange(9, 13)})
    assert report.parity is not None
    assert report.parity.batches[0] == 4
    assert report.parity.holds
    assert report.folded == 1
