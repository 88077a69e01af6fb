"""Results that nobody reads, or that stand as "" in the list of a node's results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from bncheck.runtime.file import open_onnx
from bncheck.runtime.reference import in_float64
from tests.folding.onnx.graphs.building import bn, conv, fold_onnx, model, norm, numbers


def _split(*results: str, reads: tuple[str, ...] = ("q",)) -> onnx.ModelProto:
    """Convolution, BatchNorm of 6 channels, a Split; one part is read, or looked at."""
    behind = [
        helper.make_node("Split", ["n"], results, axis=1, num_outputs=len(results)),
        helper.make_node("Relu", ["q"], ["y"]),
        *(helper.make_node("Neg", [name], [f"{name}.idle"]) for name in reads),
    ]
    weights = {"conv.weight": numbers(6, 3, 3, 3), **norm(6)}
    return model([conv(), bn("c", "n"), *behind], weights, opset=18)


def _recurrent(kind: str, gates: int) -> onnx.ModelProto:
    """Only the last state is read, behind it a bound without a lower one."""
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"]),
        bn("c", "n"),
        helper.make_node("Transpose", ["n"], ["t"], perm=[2, 0, 1]),
        helper.make_node(kind, ["t", "w", "r"], ["", "h"], hidden_size=4),
        helper.make_node("Clip", ["h", "", "top"], ["y"]),
    ]
    weights = {
        "conv.weight": numbers(6, 3, 1), **norm(6), "w": numbers(1, gates * 4, 6),
        "r": numbers(1, gates * 4, 4), "top": np.float32(0.3),
    }  # fmt: skip
    return model(nodes, weights, ("N", 3, 5), opset=18)


_MODELS = {
    "a part without a reader": _split("p", "q"),
    "the last part without a reader": _split("q", "p"),
    "a part whose reader is idle": _split("p", "q", reads=("p",)),
    "first part": _split("", "q"),
    "part in the middle": _split("q", "", "p", reads=("p",)),
    "parts around": _split("", "q", ""),
    "last part": _split("q", ""),
    "LSTM": _recurrent("LSTM", 4),
    "GRU": _recurrent("GRU", 3),
    "RNN": _recurrent("RNN", 1),
}


@pytest.mark.parametrize("what", _MODELS)
def test_what_nobody_reads_keeps_no_norm(what: str, tmp_path: Path) -> None:
    onnx.save(_MODELS[what], tmp_path / "net.onnx")
    report, folded = fold_onnx(tmp_path / "net.onnx")
    assert not report.kept, report.batchnorms
    assert report.parity is not None
    assert report.parity.holds, report.parity
    onnx.checker.check_model(folded, full_check=True)


@pytest.mark.parametrize("kind", ["If", "Loop"])
def test_the_runtime_is_given_names_for_results_of_any_number(kind: str, tmp_path: Path) -> None:
    """onnxruntime (1.32) crashes where one of them has none."""
    inner = helper.make_graph([], "inner", [], [])
    inputs, names = {"If": (["x"], ["then_branch", "else_branch"]), "Loop": (["", "x"], ["body"])}[
        kind
    ]
    node = helper.make_node(kind, inputs, ["", "omitted_0", ""], **dict.fromkeys(names, inner))
    onnx.save(model([node], {}, outputs=("omitted_0",)), tmp_path / "net.onnx")
    opened, _ = open_onnx(tmp_path / "net.onnx")
    assert list(opened.graph.node[0].output) == ["omitted_1", "omitted_0", "omitted_2"]


def test_a_result_that_is_left_out_is_no_input_that_is_left_out() -> None:
    given = _recurrent("LSTM", 4)
    x = np.random.default_rng(0).normal(size=(2, 3, 5))
    (found,) = in_float64(given).run(None, {"x": x})
    given.graph.node[3].output[0] = "read.by.nobody"
    (wanted,) = in_float64(given).run(None, {"x": x})
    np.testing.assert_array_equal(found, wanted)
