"""A fold is proven where it happens: what lies outside is only run by the model's own runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from bncheck.folding.onnx import cutting
from bncheck.folding.onnx import fold as onnx_fold
from bncheck.folding.onnx import parity as onnx_parity
from bncheck.folding.onnx import rewrite as onnx_rewrite
from bncheck.folding.planner.plan import Absorbed
from bncheck.folding.program.fold import fold
from bncheck.folding.regions import Call, Calls, between, dependent, regions_of
from bncheck.folding.weights import solve
from bncheck.graph.program.read import read_program
from bncheck.runtime.reference import in_float64
from tests.architectures import randomised
from tests.folding.onnx.graphs import building as graphs
from tests.folding.onnx.graphs.building import fold_onnx

_CHAIN = Calls((
    Call(("x",), ("a",)), Call(("a", "w"), ("b",)), Call(("b",), ("c",)), Call(("c", "a"), ("d",)),
))  # fmt: skip


def test_the_way_back_stops_where_the_values_are_the_original_ones() -> None:
    assert between(_CHAIN, ["d"], {"a"}.__contains__) == ([1, 2, 3], ["a"])
    assert between(_CHAIN, ["c", "d"], {"a", "c"}.__contains__) == ([1, 2, 3], ["c", "a"])


def test_a_way_back_looks_at_no_other_calls() -> None:
    """A region of a long program costs what it holds."""
    chain = Calls(Call((f"v{i}",), (f"v{i + 1}",)) for i in range(1000))
    asked: list[str] = []

    def stops(name: str) -> bool:
        asked.append(name)
        return name == "v498"

    assert between(chain, ["v500"], stops) == ([498, 499], ["v498"])
    assert asked == ["v499", "v498"]


def test_what_does_not_depend_on_the_input_is_fixed() -> None:
    assert dependent(_CHAIN, ["w"]) == {"w", "b", "c", "d"}
    assert dependent(_CHAIN, ["w"], fixed=["b"]) == {"w"}


class _TwoBlocks(nn.Module):
    """Two convolutions with a norm each, and something that amplifies between."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.b, self.nb = nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.nb(self.b(torch.sin(self.na(self.a(x)) * 1e5)))
        return y


def test_regions_are_counted_and_depth_amplifies_nothing() -> None:
    result = fold(_TwoBlocks().eval(), (torch.randn(2, 3, 9, 9),))
    assert result.parity is not None
    assert result.parity.to_dict()["regions"] == {
        "count": 2,
        "max_relative_error": pytest.approx(0, abs=1e-6),
    }
    assert result.parity.holds


class _Attends(nn.Module):
    """Means of rows, of which a norm is pulled into the values."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.values, self.bn = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shares = (x @ x.transpose(1, 2)).softmax(-1)
        y: torch.Tensor = self.bn((shares @ self.values(x)).transpose(1, 2))
        return y


def test_the_weights_of_an_attention_sum_to_1_in_a_proof() -> None:
    """Random numbers in their place would refute a right fold."""
    result = fold(randomised(_Attends()), torch.randn(2, 5, 4))
    assert [decision.status for decision in result.batchnorms] == ["folded"]
    assert result.parity is not None
    assert result.parity.holds
    assert result.parity.regions is not None
    assert result.parity.regions.count == 1


def test_the_same_in_an_onnx_model(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["s"]),
        helper.make_node("Softmax", ["s"], ["shares"]),
        helper.make_node("MatMul", ["x", "w"], ["u"]),
        helper.make_node("Add", ["u", "b"], ["v"]),
        helper.make_node("MatMul", ["shares", "v"], ["m"]),
        helper.make_node("Transpose", ["m"], ["c"], perm=[0, 2, 1]),
        graphs.bn("c", "y"),
    ]
    weights = {"w": graphs.numbers(4, 4), "b": graphs.numbers(4), **graphs.norm(4)}
    onnx.save(graphs.model(nodes, weights, ("N", 5, 4)), tmp_path / "net.onnx")
    report, _ = fold_onnx(tmp_path / "net.onnx")
    assert report.folded == 1
    assert report.parity is not None
    assert report.parity.holds


def test_the_boundary_of_a_fold_is_found_once() -> None:
    """It takes a walk over all calls, and is asked for at each."""
    program = torch.export.export(_TwoBlocks().eval(), (torch.randn(2, 3, 9, 9),))
    solution = solve(read_program(program))
    asked: list[int] = []

    class Counting(dict[int, Absorbed]):
        def __iter__(self) -> Iterator[int]:
            asked.append(len(self))
            return super().__iter__()

    folds = Counting(solution.plan.folds)
    counted = replace(solution, plan=replace(solution.plan, folds=folds))
    assert regions_of(counted) == regions_of(solution)
    assert asked == [2]


def _quantised(tmp_path: Path) -> Path:
    """What only onnxruntime runs, before and behind a BatchNorm that goes."""
    nodes = [
        helper.make_node("QuickGelu", ["x"], ["h"], domain="com.microsoft", alpha=1.0),
        graphs.conv("h"), graphs.bn("c", "d"),
        helper.make_node("QuickGelu", ["d"], ["y"], domain="com.microsoft", alpha=1.0),
    ]  # fmt: skip
    plain = [helper.make_node("Identity", [n.input[0]], [n.output[0]]) if n.domain else n
             for n in nodes]  # fmt: skip
    model = graphs.model(plain, {"conv.weight": graphs.numbers(6, 3, 3, 3), **graphs.norm(6)})
    for place, node in enumerate(nodes):
        model.graph.node[place].CopyFrom(node)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    # Without a shape nothing is folded, and onnx does not know that of this operator.
    model.graph.value_info.append(helper.make_tensor_value_info("h", 1, ("N", 3, 9, 9)))
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_operators_outside_the_regions_need_no_evaluator(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    report, model = fold_onnx(_quantised(tmp_path))
    assert [node.op_type for node in model.graph.node] == ["QuickGelu", "Conv", "QuickGelu"]
    assert report.parity is not None
    assert report.parity.holds


@pytest.mark.parametrize("place", [0, 1])
def test_a_wrong_number_of_an_onnx_fold_is_found_where_it_is(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a ReLU that never opens, too: its channel is 0 whatever the weight is."""
    nodes = [graphs.conv(), graphs.bn("c", "d"), helper.make_node("Relu", ["d"], ["e"]),
             helper.make_node("Conv", ["e", "w2"], ["f"]),
             helper.make_node("BatchNormalization", ["f", "s2", "b2", "m2", "v2"], ["y"], "bn2"),
             ]  # fmt: skip
    weights = {"conv.weight": graphs.numbers(6, 3, 3, 3), **graphs.norm(6)}
    weights["bn.bias"] = np.full(6, -1e3, np.float32)
    more = dict(zip(("s2", "b2", "m2", "v2"), graphs.norm(6).values(), strict=True))
    weights |= {"w2": graphs.numbers(6, 6, 1, 1), **more}
    onnx.save(graphs.model(nodes, weights), tmp_path / "net.onnx")
    right = onnx_rewrite.rewrite

    def wrong(model: onnx.ModelProto, *rest: object) -> object:
        renamed = right(model, *rest)  # type: ignore[arg-type]
        name = ["conv.weight", "w2"][place]
        (tensor,) = [t for t in model.graph.initializer if t.name == name]
        changed = onnx.numpy_helper.to_array(tensor).copy()
        changed[2] *= 1.5
        tensor.CopyFrom(onnx.numpy_helper.from_array(changed, name))
        return renamed

    monkeypatch.setattr(onnx_fold, "rewrite", wrong)
    report, _ = fold_onnx(tmp_path / "net.onnx")
    assert report.parity is not None
    assert not report.parity.holds
    assert report.findings[-1].layer == ["d", "bn2"][place]
    assert "report it" in report.findings[-1].fix


def test_a_right_onnx_fold_is_written_however_far_rounding_moves_the_outputs(
    tmp_path: Path,
) -> None:
    nodes = [graphs.conv(), graphs.bn("c", "d"), helper.make_node("Mul", ["d", "large"], ["e"]),
             helper.make_node("Sin", ["e"], ["y"])]  # fmt: skip
    weights = {"conv.weight": graphs.numbers(6, 3, 3, 3), **graphs.norm(6)}
    # For each place, so that the scale and the sign are no map of channels.
    weights["large"] = np.full((1, 1, 7, 7), 1e5, np.float32) + np.arange(7, dtype=np.float32)
    onnx.save(graphs.model(nodes, weights), tmp_path / "net.onnx")
    report, _ = fold_onnx(tmp_path / "net.onnx")
    assert report.folded == 1
    assert report.parity is not None
    assert report.parity.holds
    assert report.parity.original_error > 1e-3


def test_the_numbers_that_a_fold_changes_are_moved_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    right = cutting.moved

    def watched(model: onnx.ModelProto, dtypes: dict[str, str]) -> onnx.ModelProto:
        seen.extend(dtypes)
        return right(model, dtypes)

    monkeypatch.setattr(onnx_parity, "moved", watched)
    test_a_right_onnx_fold_is_written_however_far_rounding_moves_the_outputs(tmp_path)
    assert {"conv.weight", "bn.weight", "bn.running_var", "d"} <= set(seen)


def test_the_whole_is_run_in_float64_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    right = in_float64

    def watched(model: onnx.ModelProto) -> object:
        seen.append([node.op_type for node in model.graph.node])
        return right(model)

    monkeypatch.setattr(onnx_parity, "in_float64", watched)
    fold_onnx(_quantised(tmp_path))
    assert {tuple(ops) for ops in seen} == {("Conv", "BatchNormalization"), ("Conv",)}
