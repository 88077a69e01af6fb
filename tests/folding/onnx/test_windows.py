"""A few places of a map show what a region does, where its calls treat all places alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bncheck.folding.onnx import fold as onnx_fold
from bncheck.folding.onnx import rewrite as onnx_rewrite
from bncheck.folding.onnx.windows import windows
from tests.folding.onnx.graphs import building as graphs
from tests.folding.onnx.graphs.building import fold_onnx

_MAP = {"x": np.zeros((2, 4, 60, 60), np.float32)}
_NORM = helper.make_node("BatchNormalization", ["y", "s", "b", "m", "v"], ["z"])
_SHAPES = {"w": (4, 4, 3, 3), "s": (4,), "b": (4,), "m": (4,), "v": (4,)}


def _seen(nodes: list[onnx.NodeProto], values: Any = None, **more: Any) -> list[tuple[int, ...]]:
    found = windows([*nodes, _NORM], values or _MAP, {**_SHAPES, **more})
    return [value.shape for value in found.values()]


@pytest.mark.parametrize(("dilation", "size"), [(1, 6), (9, 22), (40, 60)])
def test_every_tap_of_a_kernel_meets_the_map(dilation: int, size: int) -> None:
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], dilations=[dilation] * 2, pads=[dilation] * 4
    )
    assert _seen([node]) == [(1, 4, size, size)]


def test_kernels_behind_each_other_see_further() -> None:
    pool = helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2])
    assert _seen([pool, helper.make_node("Conv", ["p", "w"], ["y"])]) == [(1, 4, 9, 9)]


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Add", ["x", "table"], ["y"]),  # numbers by place
        helper.make_node("Flatten", ["x"], ["y"]),
        helper.make_node("Conv", ["x", "computed"], ["y"]),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"]),
        helper.make_node("Resize", ["x", "", "computed"], ["y"]),
        helper.make_node("Concat", ["x", "table"], ["y"], axis=1),
        helper.make_node("Concat", ["x", "x"], ["y"], axis=2),
    ],
)
def test_where_places_differ_the_whole_is_needed(node: onnx.NodeProto) -> None:
    assert _seen([node], table=(4, 60, 60)) == []


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Resize", ["x", "", "factors"], ["y"]),
        helper.make_node("Concat", ["x", "x"], ["y"], axis=1),
        helper.make_node("GlobalAveragePool", ["x"], ["y"]),
        helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2),
    ],
)
def test_few_places_are_enough_where_the_sizes_of_maps_do_not_count(node: onnx.NodeProto) -> None:
    assert _seen([node], factors=(4,)) == [(1, 4, 4, 4)]


def test_a_factor_for_each_channel_is_taken_as_it_is() -> None:
    values = {**_MAP, "g": np.zeros((2, 4, 1, 1), np.float32)}
    product = helper.make_node("Mul", ["x", "g"], ["y"])
    assert _seen([product], values) == [(1, 4, 4, 4), (1, 4, 1, 1)]


def test_maps_of_different_sizes_are_needed_whole() -> None:
    values = {**_MAP, "h": np.zeros((2, 4, 30, 30), np.float32)}
    assert _seen([helper.make_node("Conv", ["x", "w"], ["y"])], values) == []
    assert _seen([helper.make_node("MatMul", ["r", "w"], ["y"])], {"r": np.zeros((9, 4))}) == []


def test_a_wrong_tap_is_found_in_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    nodes = [graphs.conv(dilations=[7, 7], pads=[7] * 4), graphs.bn("c", "y")]
    stored = {"conv.weight": graphs.numbers(6, 3, 3, 3), **graphs.norm(6)}
    model = graphs.model(nodes, stored)
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 70
    onnx.save(model, tmp_path / "net.onnx")
    right = onnx_rewrite.rewrite

    def wrong(model: onnx.ModelProto, *rest: Any) -> object:
        renamed = right(model, *rest)
        (tensor,) = [t for t in model.graph.initializer if t.name == "conv.weight"]
        changed = numpy_helper.to_array(tensor).copy()
        changed[4, 1, 0, 2] *= 1.01
        tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
        return renamed

    assert fold_onnx(tmp_path / "net.onnx")[0].parity.holds  # type: ignore[union-attr]
    monkeypatch.setattr(onnx_fold, "rewrite", wrong)
    assert not fold_onnx(tmp_path / "net.onnx")[0].parity.holds  # type: ignore[union-attr]
