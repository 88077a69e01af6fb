# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,union-attr,no-any-return,arg-type"
"""What made an earlier version crash, compute something else, or say nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from bncheck import BncheckError
from bncheck.folding.planner.plan import Status
from bncheck.folding.program.fold import FoldResult, fold
from tests.folding.onnx.graphs import building as graphs
from tests.folding.onnx.graphs.building import fold_onnx
from tests.folding.patterns.building import Fn, randomised

torch.set_num_threads(1)


def _folded(run: Callable[..., object], batch: int = 2, **parts: nn.Module) -> FoldResult:
    """Folded, and compared with the module itself, whose export may be at fault, too."""
    model = randomised(Fn(run, **parts))
    torch.manual_seed(1)
    result = fold(copy.deepcopy(model), (torch.randn(batch, 4, 9, 9),))
    x = torch.randn(batch, 4, 9, 9)
    with torch.no_grad():
        expected, given = model(x), result.module()(x)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
    assert (result.parity is None) == (result.report.folded == 0)
    assert result.parity is None or result.parity.holds
    return result


def _conv(out: int = 6) -> nn.Module:
    return nn.Conv2d(4, out, 3)


def test_view_as_is_a_reshape() -> None:
    def run(net: Fn, x: Tensor) -> Tensor:
        return net.bn(net.conv(x).view_as(torch.zeros(x.shape[0], 6, 7, 14)))

    assert _folded(run, conv=_conv(12), bn=nn.BatchNorm2d(6)).report.folded == 1


@pytest.mark.filterwarnings("ignore")
def test_numpys_transpose_reverses_all_axes() -> None:
    def run(net: Fn, x: Tensor) -> Tensor:
        return net.bn(net.conv(x).mean(3).T)

    _folded(run, conv=_conv(), bn=nn.BatchNorm1d(6))


def test_writing_in_place_keeps_the_dtype() -> None:
    def run(net: Fn, x: Tensor) -> object:
        y = torch.sigmoid(x).half()
        y.mul_(x.float())
        return y, net.bn(net.conv(x))

    _folded(run, conv=_conv(), bn=nn.BatchNorm2d(6))


def test_writing_reaches_views_that_no_schema_tells_of() -> None:
    def run(net: Fn, x: Tensor) -> object:
        y = net.conv(x)
        other = torch.einsum("nchw->nhwc", y)
        y.relu_()
        return net.bn(y), other

    assert _folded(run, conv=_conv(), bn=nn.BatchNorm2d(6)).report.folded == 0


def test_statistics_that_another_call_updates_are_not_folded() -> None:
    def run(net: Fn, x: Tensor) -> object:
        y = net.conv(x)
        bn = net.bn
        stats = bn.running_mean, bn.running_var
        return nn.functional.batch_norm(y, *stats, training=True), bn(net.conv(x * 2))

    model = randomised(Fn(run, conv=_conv(), bn=nn.BatchNorm2d(6)))
    decisions = fold(model, (torch.randn(2, 4, 9, 9),)).batchnorms
    assert [d.status for d in decisions] == [Status.KEPT] * 2
    assert decisions[1].reason == "its running mean changes while the model runs"


def test_statistics_shared_with_a_norm_in_training_mode_are_not_folded() -> None:
    model = randomised(Fn(lambda net, x: net.bn(net.back(net.trains(net.conv(x)))),
                          conv=_conv(), trains=nn.BatchNorm2d(6), back=nn.Conv2d(6, 6, 1),
                          bn=nn.BatchNorm2d(6)))  # fmt: skip
    model.trains.running_mean, model.trains.running_var = (
        model.bn.running_mean,
        model.bn.running_var,
    )
    model.trains.train()
    decisions = fold(model, (torch.randn(2, 4, 9, 9),)).batchnorms
    assert [d.status for d in decisions] == [Status.KEPT] * 2


def test_a_buffer_that_every_call_changes_is_compared_from_its_first_value() -> None:
    class Counting(Fn):
        calls: Tensor

    def run(net: Fn, x: Tensor) -> Tensor:
        net.calls.add_(1)
        return net.bn(net.conv(x)) * net.calls

    model = randomised(Counting(run, conv=_conv(), bn=nn.BatchNorm2d(6)))
    model.register_buffer("calls", torch.zeros(()))
    result = fold(model, (torch.randn(2, 4, 9, 9),))
    assert result.report.folded == 1
    assert result.parity is not None
    assert result.parity.holds
    assert result.program.state_dict["calls"] == 0
    assert model.calls == 0


def test_attention_without_dropout_draws_nothing() -> None:
    def run(net: Fn, x: Tensor) -> Tensor:
        y = net.bn(net.conv(x)).flatten(2).transpose(1, 2)
        return nn.functional.rrelu(nn.functional.scaled_dot_product_attention(y, y, y))

    assert _folded(run, conv=_conv(), bn=nn.BatchNorm2d(6)).report.folded == 1


def test_attention_with_dropout_is_refused() -> None:
    def run(net: Fn, x: Tensor) -> Tensor:
        y = net.bn(net.conv(x)).flatten(2)
        return nn.functional.scaled_dot_product_attention(y, y, y, dropout_p=0.1)

    with pytest.raises(BncheckError, match="draws random numbers"):
        _folded(run, conv=_conv(), bn=nn.BatchNorm2d(6))


@pytest.mark.parametrize("batch", [1, 2])
def test_the_batch_is_free_whatever_the_example(batch: int) -> None:
    class Variadic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = _conv(), nn.BatchNorm2d(6)

        def forward(self, *inputs: Tensor) -> Tensor:
            y: Tensor = self.bn(self.conv(inputs[0]))
            return y

    result = fold(randomised(Variadic()), (torch.randn(batch, 4, 9, 9),))
    assert result.parity is not None
    assert result.parity.batches[:2] == (2, 1)
    assert [len(result.module()(torch.randn(n, 4, 9, 9))) for n in (1, 2, 5)] == [1, 2, 5]


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: [x]])
def test_a_single_input_needs_no_tuple(wrap: Callable[[Tensor], object]) -> None:
    model = randomised(nn.Sequential(_conv(), nn.BatchNorm2d(6)))
    assert fold(model, wrap(torch.randn(2, 4, 9, 9))).report.folded == 1


def test_what_overflows_before_may_overflow_after() -> None:
    model = randomised(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)))
    with torch.no_grad():
        model.get_submodule("2").weight.mul_(3e4)
    result = fold(model.half(), (torch.randn(2, 4, 9, 9).half(),))
    assert not result.module()(torch.randn(2, 4, 9, 9).half()).isfinite().all()
    assert result.report.folded == 1
    assert result.parity is not None
    assert result.parity.holds


def test_branches_without_a_norm_hold_none() -> None:
    def run(net: Fn, x: Tensor) -> object:
        y = net.bn(net.conv(x))
        return torch.cond(y.sum() > 0, lambda y: y + 1, lambda y: y * 2, (y,))

    assert _folded(run, conv=_conv(), bn=nn.BatchNorm2d(6)).report.folded == 1


def _cond(net: Fn, x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: net.bn(net.conv(x)), lambda x: net.conv(x) * 2, (x,))


def _autocast(net: Fn, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return net.bn(net.conv(x))


@pytest.mark.parametrize("run", [_cond, _autocast])
def test_what_lies_inside_a_call_is_listed_with_a_reason(run: Callable[..., object]) -> None:
    model = randomised(Fn(run, conv=_conv(), bn=nn.BatchNorm2d(6)))
    (decision,) = fold(model, (torch.randn(2, 4, 9, 9),)).batchnorms
    assert (decision.name, decision.status) == ("bn", Status.KEPT)
    assert "lies inside" in decision.reason


def _onnx(tmp_path: Path, nodes: list[onnx.NodeProto], channels: int, opset: int = 17) -> int:
    weights = {
        "conv.weight": graphs.numbers(6, 3, 3, 3),
        **graphs.norm(channels),
    }
    onnx.save(graphs.model(nodes, weights, opset=opset), tmp_path / "net.onnx")
    report, _ = fold_onnx(tmp_path / "net.onnx")
    assert (report.parity is None) == (report.folded == 0)
    assert report.parity is None or report.parity.holds
    return report.folded


@pytest.mark.parametrize("opset", [10, 17])
def test_an_idle_dropout_with_a_mask_is_passed_both_ways(tmp_path: Path, opset: int) -> None:
    dropout = helper.make_node("Dropout", ["c"], ["d", "mask"])
    back = [graphs.conv(), dropout, graphs.bn("d", "y")]
    forth = [graphs.bn("x", "c"), dropout, graphs.conv("d", "y")]
    assert _onnx(tmp_path, back, 6, opset) == 1
    assert _onnx(tmp_path, forth, 3, opset) == 1


def test_average_pools_that_may_count_what_lies_beyond_the_input_are_no_averages(
    tmp_path: Path,
) -> None:
    pool = helper.make_node(
        "AveragePool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1,
        count_include_pad=1,
    )  # fmt: skip
    nodes = [graphs.conv(), pool, graphs.bn("d", "y")]
    assert _onnx(tmp_path, nodes, 6) == 0


def test_an_onnx_model_that_cannot_be_run_is_refused(tmp_path: Path) -> None:
    weights = {"conv.weight": graphs.numbers(6, 3, 3, 3), **graphs.norm(6)}
    unknown = helper.make_node("Identity", ["x"], ["h"])
    model = graphs.model([unknown, graphs.conv("h"), graphs.bn("c", "y")], weights)
    model.graph.node[0].op_type, model.graph.node[0].domain = "NobodysOwn", "of.nobody"
    model.opset_import.append(helper.make_opsetid("of.nobody", 1))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(BncheckError, match=r"cannot be run for the comparison.*NobodysOwn"):
        fold_onnx(tmp_path / "net.onnx")


def test_an_onnx_model_that_onnxruntime_refuses_to_run_is_refused(tmp_path: Path) -> None:
    weights = {"w": graphs.numbers(3, 6, 2, 2), **graphs.norm(6)}
    upwards = helper.make_node(
        "ConvTranspose", ["x", "w"], ["c"], strides=[2, 2], output_shape=[50, 50]
    )
    onnx.save(graphs.model([upwards, graphs.bn("c", "y")], weights), tmp_path / "net")
    with pytest.raises(BncheckError, match="cannot be run for the comparison"):
        fold_onnx(tmp_path / "net")


def test_what_a_branch_takes_from_outside_is_told_apart(tmp_path: Path) -> None:
    shape = ("N", 6, 7, 7)
    branches = {
        name: helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(node.output[0], 1, shape)]
        )
        for name, node in (
            ("then_branch", graphs.bn("c", "t")),
            ("else_branch", helper.make_node("Identity", ["c"], ["e"])),
        )
    }
    nodes = [graphs.conv(), helper.make_node("If", ["flag"], ["y"], **branches)]
    weights = {"conv.weight": graphs.numbers(6, 3, 3, 3), **graphs.norm(6), "flag": np.array(True)}
    onnx.save(graphs.model(nodes, weights), tmp_path / "net.onnx")
    report, _ = fold_onnx(tmp_path / "net.onnx")
    assert "its input is an input of the inner graph" in report.batchnorms[0].reason


def test_amounts_of_padding_may_follow_from_sizes_that_are_free() -> None:
    """To a multiple of 8, with a value that the map leaves as it is, or with copies."""

    def run(net: Fn, x: Tensor) -> Tensor:
        y = net.first(net.conv(x))
        padded = nn.functional.pad(y, (0, -y.shape[3] % 8, 0, 0), mode="replicate")
        z = net.second(padded)
        return net.head(nn.functional.pad(net.third(z).relu(), (0, 1 - z.shape[3] % 2)))

    torch.manual_seed(0)
    norms = {name: nn.BatchNorm2d(6) for name in ("first", "second", "third")}
    model = randomised(Fn(run, conv=_conv(), head=nn.Conv2d(6, 2, 1), **norms))
    sizes = ({3: torch.export.Dim("width", min=12, max=60)},)
    program = torch.export.export(model, (torch.randn(2, 4, 9, 13),), dynamic_shapes=sizes)
    result = fold(program, None)
    assert result.report.folded == 3
    x = torch.randn(2, 4, 9, 22)
    torch.testing.assert_close(result.module()(x), model(x), rtol=1e-4, atol=1e-4)


def test_what_no_output_needs_reads_nothing() -> None:
    """A value kept for debugging, a head that was cut off; a norm in it stays and is named."""

    def run(net: Fn, x: Tensor) -> Tensor:
        y = net.conv(x)
        net.kept = y.clone()
        net.unused(y).tanh()
        return net.bn(y).relu()

    report = _folded(run, conv=_conv(), bn=nn.BatchNorm2d(6), unused=nn.BatchNorm2d(6)).report
    assert {d.name: d.status for d in report.batchnorms} == {
        "bn": Status.FOLDED,
        "unused": Status.KEPT,
    }
    assert "its output is unused" in report.kept[0].reason


def test_what_is_written_to_a_buffer_stays_as_it_was() -> None:

    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = _conv(), nn.BatchNorm2d(6)
            self.register_buffer("seen", torch.zeros(6))

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            self.seen.copy_(y.mean((0, 2, 3)))
            return self.bn(y).relu()

    model = randomised(Kept())
    torch.manual_seed(1)
    result = fold(copy.deepcopy(model), (torch.randn(2, 4, 9, 9),))
    x = torch.randn(2, 4, 9, 9)
    module = result.module()
    torch.testing.assert_close(module(x), model(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module.state_dict()["seen"], model.seen, rtol=1e-4, atol=1e-4)


def test_a_check_reads_what_it_is_about() -> None:
    """Nobody needs its result, and yet what it looks at must stay as it was."""

    def run(net: Fn, x: Tensor) -> Tensor:
        y = net.conv(x)
        torch.ops.aten._assert_async.msg((y.abs().amax() < 1e6).all(), "too large")
        return net.bn(y).relu()

    (kept,) = _folded(run, conv=_conv(), bn=nn.BatchNorm2d(6)).report.kept
    assert "its input is also used by abs" in kept.reason
