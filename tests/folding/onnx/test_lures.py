"""Small ONNX graphs that lure the planner: computed to be the same function, or left alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from bncheck import BncheckError
from bncheck.folding.fold import FoldOptions
from bncheck.folding.onnx.altered import Altered
from bncheck.folding.onnx.parity import ModelSides
from bncheck.folding.planner.families import Norms
from bncheck.runtime.weights import Weights
from tests.folding.onnx.graphs import building as graphs
from tests.folding.onnx.graphs.building import bn, conv, fold_onnx, norm, numbers

node = helper.make_node


def _sum_with_a_map_of_one_channel() -> onnx.ModelProto:
    """x [N, 6, 9, 9] and a convolution's [N, 1, 9, 9] are added, and normalised together."""
    nodes = [conv(w="a"), conv(w="b", y="d"), node("Add", ["c", "d"], ["e"]), bn("e", "y")]
    return graphs.model(nodes, {"a": numbers(6, 3, 1, 1), "b": numbers(1, 3, 1, 1), **norm(6)})


def _gemm_that_repeats_its_bias() -> onnx.ModelProto:
    """Before opset 7, `broadcast` is an attribute of sums, and of Gemm for its bias."""
    nodes = [node("Gemm", ["x", "w", "b"], ["c"], broadcast=1), bn("c", "y", is_test=1)]
    weights = {"w": numbers(4, 6), "b": numbers(6), **norm(6)}
    return graphs.model(nodes, weights, (2, 4), opset=6, ir=3, listed=list(weights))


def _half_of_an_axis(first: bool) -> onnx.ModelProto:
    """Of an axis whose size is free; the other half is not read."""
    names = ["d", "unused"] if first else ["unused", "d"]
    nodes = [conv(), node("Split", ["c", "parts"], names, axis=2), bn("d", "y")]
    weights = {"conv.weight": numbers(6, 3, 1, 1), "parts": np.array([4, 4]), **norm(6)}
    return graphs.model(nodes, weights, ("N", 3, "H", 9))


def _picked(index: Any, *, axis: int = 2, behind: bool = False) -> onnx.ModelProto:
    """One place, or those that an input says, of an axis whose size is free."""
    weights = {"conv.weight": numbers(6, 6 if behind else 3, 1, 1), **norm(6)}
    more = [helper.make_tensor_value_info("i", onnx.TensorProto.INT64, ["K"])]
    if index is not None:
        weights["i"], more = np.array(index), []
    pick = node("Gather", ["b" if behind else "c", "i"], ["d"], axis=axis)
    nodes = [node("Relu", ["x"], ["r"]), bn("r", "b"), pick, conv("d", "y")]
    if not behind:
        nodes = [conv(), pick, bn("d", "y")]
    size = 6 if behind else 3
    return graphs.model(nodes, weights, ("N", size, "H", 9), inputs=more)


def _head_that_was_cut_off() -> onnx.ModelProto:
    """What it read before is read by nobody whose result counts."""
    head = [node("Relu", ["c"], ["r"]), node("MatMul", ["r", "w"], ["s"])]
    weights = {"conv.weight": numbers(6, 3, 1, 1), "w": numbers(9, 2), **norm(6)}
    return graphs.model([conv(), *head, bn("c", "y")], weights)


def _norm_that_nobody_reads(other: bool) -> onnx.ModelProto:
    """It reads the result of a norm that goes, or one that nobody else reads."""
    nodes = [conv(), bn("c", "b"), bn("b", "unread", "more"), node("Relu", ["b"], ["r"])]
    weights = {"conv.weight": numbers(6, 3, 1, 1), "w": numbers(6, 3, 1, 1)}
    weights |= {**norm(6), **norm(6, prefix="more"), "v": numbers(2, 6, 1, 1)}
    nodes += [conv(w="w", y="d"), node("Conv", ["d" if other else "r", "v"], ["y"])]
    return graphs.model(nodes, weights)


#: Name -> the graph, and how many BatchNormalization nodes stay.
LURES: dict[str, tuple[Callable[[], onnx.ModelProto], int]] = {
    "sum with a map of one channel": (_sum_with_a_map_of_one_channel, 1),
    "Gemm that repeats its bias": (_gemm_that_repeats_its_bias, 0),
    "a head that was cut off": (_head_that_was_cut_off, 0),
    "a norm that nobody reads": (partial(_norm_that_nobody_reads, False), 1),
    "norms that nobody reads": (partial(_norm_that_nobody_reads, True), 2),
    "the first half of a free axis": (partial(_half_of_an_axis, True), 0),
    "the second half of a free axis": (partial(_half_of_an_axis, False), 0),
    "one place of a free axis": (partial(_picked, -1), 0),
    "places that an input says": (partial(_picked, None), 0),
    "places that an input says, of what is pushed": (partial(_picked, None, behind=True), 0),
    "channels that an input says": (partial(_picked, None, axis=1), 1),
}


@pytest.mark.parametrize("name", LURES)
def test_lure(name: str, tmp_path: Path) -> None:
    build, kept = LURES[name]
    onnx.save(build(), tmp_path / "net.onnx")
    report, _ = fold_onnx(tmp_path / "net.onnx")
    assert len(report.kept) == kept, report.batchnorms
    assert report.parity is None or report.parity.holds


@pytest.mark.parametrize("kind", ["Sum", "Mean", "Max", "Min"])
def test_nodes_that_take_the_place_of_one_have_names_of_their_own(
    kind: str, tmp_path: Path
) -> None:
    nodes = [conv(), bn("c", "b"), node(kind, ["b", "x", "x", "x"], ["y"], name="joined")]
    weights = {"conv.weight": numbers(3, 3, 1, 1), **norm(3)}
    onnx.save(graphs.model(nodes, weights), tmp_path / "net.onnx")
    report, model = fold_onnx(tmp_path / "net.onnx")
    assert report.folded == 1
    names = [each.name for each in model.graph.node if each.name]
    assert "joined" in names
    assert len(names) == len(set(names))


@pytest.mark.parametrize("taken", ["m.sum", "m.mean1", "m.count"])
def test_values_that_are_new_have_names_of_their_own(taken: str, tmp_path: Path) -> None:
    nodes = [
        conv(),
        node("Mean", ["c", "one", "c"], ["m"]),
        bn("m", "b"),
        node("Sin", ["x"], [taken]),
    ]
    nodes += [node("Tanh", ["b"], ["t"]), node("Concat", ["t", taken], ["y"], axis=1)]
    weights = {"conv.weight": numbers(6, 3, 1, 1), "one": numbers(1, 6, 1, 1), **norm(6)}
    onnx.save(graphs.model(nodes, weights), tmp_path / "net.onnx")
    assert fold_onnx(tmp_path / "net.onnx")[0].folded == 1


def test_a_fold_that_onnxruntime_does_not_load_is_refused() -> None:
    nodes = [conv(), node("Relu", ["c"], ["y"], name="relu")]
    model = graphs.model(nodes, {"conv.weight": numbers(6, 3, 1, 1)})
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    broken.graph.node[0].name = "relu"
    sides = ModelSides(model, broken, Weights(), Altered(frozenset(), {}, [], {}, {}))
    inputs = sides.fresh(2)
    sides.original(inputs)
    with pytest.raises(BncheckError, match=r"onnxruntime rejects .*relu"):
        sides.folded(inputs)


@pytest.mark.parametrize(
    "sizes", [1, 6], ids=["one number for all of a free size", "an axis of free size"]
)
def test_a_norm_that_cannot_be_described_is_kept_and_not_overlooked(
    sizes: int, tmp_path: Path
) -> None:
    nodes = [node("LayerNormalization", ["x", "g"], ["n"]), node("MatMul", ["n", "w"], ["y"])]
    weights = {"g": numbers(sizes), "w": numbers(6, 2)}
    onnx.save(graphs.model(nodes, weights, ("N", "C")), tmp_path / "net.onnx")
    report, _ = fold_onnx(tmp_path / "net.onnx", FoldOptions(norms=Norms.ALL))
    (kept,) = report.kept
    assert "axes whose sizes are known" in kept.reason


def test_a_norm_of_onnxruntime_alone_is_kept_with_the_next_step(tmp_path: Path) -> None:
    nodes = [node("LayerNormalization", ["x", "g"], ["n"]), node("Relu", ["n"], ["y"])]
    model = graphs.model(nodes, {"g": numbers(6)}, ("N", 2, 6))
    model.graph.node[0].op_type = "SkipLayerNormalization"
    model.graph.node[0].input[:] = ["x", "x", "g"]
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, tmp_path / "net.onnx")
    report, _ = fold_onnx(tmp_path / "net.onnx", FoldOptions(norms=Norms.ALL))
    (kept,) = report.kept
    assert "of onnxruntime alone" in kept.reason
    assert "before onnxruntime's optimiser" in kept.hint


def test_a_weight_that_is_stored_as_a_sparse_tensor_stays(tmp_path: Path) -> None:
    model = graphs.model([conv(), bn("c", "y")], {"conv.weight": numbers(6, 3, 1, 1), **norm(6)})
    dense = next(t for t in model.graph.initializer if t.name == "conv.weight")
    array = onnx.numpy_helper.to_array(dense)
    values = onnx.numpy_helper.from_array(array.ravel()[::2], "conv.weight")
    places = onnx.numpy_helper.from_array(np.arange(array.size)[::2], "")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, array.shape))
    model.graph.initializer.remove(dense)
    onnx.save(model, tmp_path / "net.onnx")
    (kept,) = fold_onnx(tmp_path / "net.onnx")[0].kept
    assert "is stored as a sparse tensor" in kept.reason
