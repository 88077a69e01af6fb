"""Elements picked by a table of positions, which becomes axes of the result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.folding.onnx.graphs.building import bn, fold_onnx, model, norm, numbers

#: Two rows of positions; the first is repeated.
TABLE = np.array([[0, 2, 0], [1, 3, -1]])


def _fold(tmp_path: Path, nodes: list[onnx.NodeProto], *, given: bool = False) -> tuple[str, str]:
    """What becomes of the only BatchNorm, and why; a result that differs is an error."""
    used = {name for node in nodes for name in node.input}
    weights = {"w": numbers(4, 3, 1, 1), "places": TABLE, **norm(4)}
    weights = {name: array for name, array in weights.items() if name in used}
    inputs = [helper.make_tensor_value_info("t", TensorProto.INT64, (2, 3))] if given else []
    path = tmp_path / "net.onnx"
    onnx.save(model(nodes, weights, (2, 3, 4, 4), inputs=inputs), path)
    report, _ = fold_onnx(path)
    assert report.parity is None or report.parity.holds
    (decision,) = report.batchnorms
    return decision.status.value, decision.reason


CONV = helper.make_node("Conv", ["x", "w"], ["c"])


@pytest.mark.parametrize("table", ["places", "t"])
def test_a_map_of_the_channels_passes_a_table_of_places(table: str, tmp_path: Path) -> None:
    pick = helper.make_node("Gather", ["c", table], ["p"], axis=3)
    nodes = [CONV, pick, bn("p", "y")]
    assert _fold(tmp_path, nodes, given=table == "t")[0] == "folded"


def test_a_table_of_channels_carries_their_maps_on(tmp_path: Path) -> None:
    """To the product that sums over the rows of four, each of which picks other channels."""
    nodes = [
        helper.make_node("Tanh", ["x"], ["h"]), helper.make_node("Conv", ["h", "w"], ["d"]),
        helper.make_node("Tanh", ["d"], ["c"]), bn("c", "n"),
        helper.make_node("Gather", ["n", "places"], ["p"], axis=1),
        helper.make_node("Transpose", ["p"], ["q"], perm=[0, 3, 4, 1, 2]),
        helper.make_node("Einsum", ["q", "e"], ["y"], equation="nhwij,ijo->nhwo"),
    ]  # fmt: skip
    path = tmp_path / "net.onnx"
    weights = {"w": numbers(4, 3, 1, 1), "places": TABLE, "e": numbers(2, 3, 5), **norm(4)}
    onnx.save(model(nodes, weights, (2, 3, 4, 4)), path)
    report, result = fold_onnx(path)
    assert report.folded == 1
    assert report.parity is not None
    assert report.parity.holds
    assert "BatchNormalization" not in [node.op_type for node in result.graph.node]


def test_a_table_that_repeats_a_channel_needs_the_same_map_of_it_twice(tmp_path: Path) -> None:
    """Row by row: the norm of (N, 3, 2, ...) sees channel 0 as its first and as its third."""
    pick = helper.make_node("Gather", ["c", "places"], ["p"], axis=1)
    rows = helper.make_node("Transpose", ["p"], ["q"], perm=[0, 2, 1, 3, 4])
    weights = {"w": numbers(4, 3, 1, 1), "places": TABLE, **norm(3)}
    path = tmp_path / "net.onnx"
    onnx.save(model([CONV, pick, rows, bn("q", "y")], weights, (2, 3, 4, 4)), path)
    (decision,) = fold_onnx(path)[0].batchnorms
    assert "repeats its channels, and their scales differ" in decision.reason


def test_channels_by_a_table_of_the_input_are_not_known(tmp_path: Path) -> None:
    nodes = [
        CONV, helper.make_node("Relu", ["c"], ["r"]), bn("r", "n"),
        helper.make_node("Gather", ["n", "t"], ["p"], axis=1),
        helper.make_node("Tanh", ["p"], ["y"]),
    ]  # fmt: skip
    status, reason = _fold(tmp_path, nodes, given=True)
    assert status == "kept"
    assert "picks channels that are not known before it runs" in reason


def test_an_empty_table_of_channels_is_nothing_special(tmp_path: Path) -> None:
    weights = {"w": numbers(4, 3, 1, 1), "none": TABLE[:0], **norm(4)}
    pick = helper.make_node("Gather", ["n", "none"], ["e"], axis=1)
    whole = helper.make_node("ReduceSum", ["e"], ["s"])
    nodes = [CONV, bn("c", "n"), pick, whole, helper.make_node("Add", ["c", "s"], ["y"])]
    path = tmp_path / "net.onnx"
    onnx.save(model(nodes, weights, (2, 3, 4, 4)), path)
    assert fold_onnx(path)[0].folded == 1  # nobody reads a number of it
