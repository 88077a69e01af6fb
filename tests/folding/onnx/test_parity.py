"""Regions of a model are compared on a few places of their maps, and borders are among these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bncheck.folding.fold import FoldOptions
from bncheck.folding.onnx import cutting, parity
from bncheck.folding.onnx import fold as onnx_fold
from bncheck.folding.onnx import rewrite as onnx_rewrite
from bncheck.folding.onnx.parity import ModelSides
from bncheck.folding.proof import Values
from tests.folding.onnx.graphs import building as graphs
from tests.folding.onnx.graphs.building import fold_onnx

pytest.importorskip("onnxruntime")


def _saved(path: Path, nodes: Sequence[onnx.NodeProto], size: int, **stored: object) -> Path:
    numbers = {"conv.weight": graphs.numbers(6, 3, 3, 3), **graphs.norm(6), **stored}
    used = {name for node in nodes for name in node.input}
    kept = {name: array for name, array in numbers.items() if name in used}
    onnx.save(graphs.model(nodes, kept, ("N", 3, size, size)), path / "net.onnx")
    return path / "net.onnx"


def _sizes(path: Path, monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, ...]]:
    """Those of what regions are computed on."""
    seen: set[tuple[int, ...]] = set()
    right = ModelSides.enough

    def watched(self: ModelSides, region: int, values: Values) -> Values:
        found = right(self, region, values)
        seen.update(found[name].shape for name in self.entries(region))
        return found

    monkeypatch.setattr(ModelSides, "enough", watched)
    assert fold_onnx(path)[0].parity.holds  # type: ignore[union-attr]
    return seen


def _damaged(damage: Callable[[onnx.ModelProto], None], monkeypatch: pytest.MonkeyPatch) -> None:
    right = onnx_rewrite.rewrite

    def wrong(model: onnx.ModelProto, *rest: object) -> object:
        renamed = right(model, *rest)  # type: ignore[arg-type]
        damage(model)
        return renamed

    monkeypatch.setattr(onnx_fold, "rewrite", wrong)


#: Behind a convolution of 3 by 3 and in front of the normalisation.
_ON_THE_WAY = {
    "relu": ([helper.make_node("Mul", ["c", "two"], ["r"])], 6),
    "resize": ([helper.make_node("Resize", ["c", "", "factors"], ["r"])], 6),
    "lined_up": (
        [
            helper.make_node(
                "Resize",
                ["c", "", "factors"],
                ["r"],
                mode="linear",
                coordinate_transformation_mode="align_corners",
            )
        ],
        60,
    ),
    "to_a_size": ([helper.make_node("Resize", ["c", "", "", "sizes"], ["r"])], 60),
    "by_the_size": (
        [
            helper.make_node("Shape", ["c"], ["s"]),
            helper.make_node("Gather", ["s", "last"], ["n"]),
            helper.make_node("Cast", ["n"], ["f"], to=1),
            helper.make_node("Div", ["c", "f"], ["r"]),
        ],
        60,
    ),
    "table": ([helper.make_node("Add", ["c", "table"], ["r"])], 60),
    "cut": ([helper.make_node("Slice", ["c", "from", "to", "from"], ["r"])], 60),
}
_STORED = {
    "two": np.float32(2.0),
    "factors": np.array([1, 1, 2, 2], np.float32),
    "sizes": np.array([2, 6, 30, 30], np.int64),
    "last": np.int64(3),
    "table": graphs.numbers(60, 60),
    "from": np.array([2, 3], np.int64),
    "to": np.array([40, 50], np.int64),
}


@pytest.mark.parametrize("name", _ON_THE_WAY)
def test_what_knows_places_or_sizes_is_computed_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, size = _ON_THE_WAY[name]
    whole = [graphs.conv(pads=[1] * 4), *nodes, graphs.bn("r", "y")]
    path = _saved(tmp_path, whole, 60, **_STORED)
    assert {seen[-1] for seen in _sizes(path, monkeypatch) if len(seen) == 4} == {size}


@pytest.mark.parametrize("size", [60, 61, 62])
def test_padding_that_only_some_sizes_meet_is_met(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With steps of 3, a row of padding behind the last one is read at a third of all sizes."""
    nodes = [graphs.conv(strides=[3, 3], pads=[0, 0, 1, 1]), graphs.bn("c", "y")]
    path = _saved(tmp_path, nodes, size)

    def copies_its_border(model: onnx.ModelProto) -> None:
        (conv,) = (node for node in model.graph.node if node.op_type == "Conv")
        source, conv.input[0] = conv.input[0], "padded"
        next(a for a in conv.attribute if a.name == "pads").ints[:] = [0] * 4
        amounts = np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64)
        model.graph.initializer.append(numpy_helper.from_array(amounts, "amounts"))
        padding = helper.make_node("Pad", [source, "amounts"], ["padded"], mode="edge")
        model.graph.node.insert(0, padding)

    _damaged(copies_its_border, monkeypatch)
    report, _ = fold_onnx(path, FoldOptions(whole_too=False))
    assert report.parity is not None
    assert report.parity.holds == (size != 62)


def test_a_wrong_tap_is_found_in_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [graphs.conv(dilations=[7, 7], pads=[7] * 4), graphs.bn("c", "y")]
    path = _saved(tmp_path, nodes, 70)

    def changes_a_tap(model: onnx.ModelProto) -> None:
        (tensor,) = [t for t in model.graph.initializer if t.name == "conv.weight"]
        changed = numpy_helper.to_array(tensor).copy()
        changed[4, 1, 0, 2] *= 1.01
        tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))

    assert fold_onnx(path)[0].parity.holds  # type: ignore[union-attr]
    _damaged(changes_a_tap, monkeypatch)
    report, _ = fold_onnx(path, FoldOptions(whole_too=False))
    assert not report.parity.holds  # type: ignore[union-attr]


def test_what_rounding_moves_is_drawn_alike_in_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names have no order of their own, and the place of each is the seed of its numbers."""
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        graphs.bn("r", "b", "bn"),
        helper.make_node("Conv", ["b", "next.weight"], ["y"]),
    ]
    path = _saved(tmp_path, nodes, 8, **{"next.weight": graphs.numbers(4, 6, 1, 1)})
    drawn: list[list[str]] = []
    right = cutting.moved

    def watched(model: onnx.ModelProto, dtypes: Mapping[str, str]) -> onnx.ModelProto:
        drawn.append(list(dtypes))
        return right(model, dtypes)

    monkeypatch.setattr(parity, "moved", watched)
    fold_onnx(path, FoldOptions(tolerance=1e-9))
    assert drawn
    assert all(len(names) > 2 and names == sorted(names) for names in drawn)
