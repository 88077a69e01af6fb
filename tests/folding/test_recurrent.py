# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,no-any-return"
"""BatchNorm before recurrent layers and behind bilinear ones, scales past constants: in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bncheck.folding.program.fold import FoldResult, fold
from tests.folding.patterns.building import Fn, randomised

torch.set_num_threads(1)


def _folded(net: nn.Module, x: Tensor) -> tuple[FoldResult, float]:
    before = copy.deepcopy(net)
    result = fold(net, x)
    with torch.no_grad():
        expected, given = before(x), result.module()(x)
    return result, float((expected - given).abs().max() / expected.abs().max())


def _after_norm(layer: nn.Module) -> nn.Module:
    """(N, 6, T), normalised by channel, through a layer that wants (N, T, 6)."""
    run: Callable[..., Any] = lambda s, x: s.r(s.n(x).transpose(1, 2))[0]  # noqa: E731
    return randomised(Fn(run, n=nn.BatchNorm1d(6), r=layer)).double()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"bidirectional": True},
        {"num_layers": 2, "bidirectional": True, "dropout": 0.5},
        {"batch_first": True},
    ],
    ids=["plain", "both ways", "layers", "batch first"],
)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_takes_over_its_inputs_map(kind: Any, more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = _after_norm(kind(6, 5, **more))
    result, error = _folded(net, torch.randn(3, 6, 7).double())
    (decision,) = result.batchnorms
    assert (decision.status, decision.into) == ("folded", ("r",))
    assert error < 1e-14
    assert result.parity is not None
    assert result.parity.regions is not None
    assert result.parity.regions.count == 1, "the product is compared where it happens"
    names = {key for key in net.state_dict() if key.startswith("r.")}
    assert set(result.program.state_dict) == names


def test_an_lstm_with_a_projection() -> None:
    torch.manual_seed(1)
    net = _after_norm(nn.LSTM(6, 5, proj_size=2, bidirectional=True))
    result, error = _folded(net, torch.randn(3, 6, 7).double())
    assert not result.report.kept
    assert error < 1e-14


def test_without_a_bias_only_a_scale_goes() -> None:
    torch.manual_seed(2)
    net, x = _after_norm(nn.GRU(6, 5, bias=False)), torch.randn(3, 6, 7).double()
    result, error = _folded(net, x)
    assert error < 1e-15
    assert "has no bias for its shift" in result.batchnorms[0].reason
    with torch.no_grad():
        norm: Any = net.get_submodule("n")
        norm.bias.zero_()
        norm.running_mean.zero_()
    result, error = _folded(net, x)
    assert not result.report.kept
    assert error < 1e-14


def test_what_comes_out_of_a_recurrent_layer_stays() -> None:
    torch.manual_seed(3)
    run: Callable[..., Any] = lambda s, x: s.n(s.r(x)[0].transpose(1, 2))  # noqa: E731
    net = randomised(Fn(run, n=nn.BatchNorm1d(5), r=nn.GRU(6, 5))).double()
    result, error = _folded(net, torch.randn(3, 7, 6).double())
    assert (len(result.report.kept), error) == (1, 0.0)
    assert "r (gru) lies between" in result.batchnorms[0].reason


def test_a_state_is_not_called_a_weight() -> None:
    torch.manual_seed(6)
    run: Callable[..., Any] = lambda s, x: s.r(x, s.n(x[0].sin())[None])[0]  # noqa: E731
    net = randomised(Fn(run, n=nn.BatchNorm1d(5), r=nn.GRU(5, 5))).double()
    result, _ = _folded(net, torch.randn(4, 3, 5).double())
    assert "it is a state of r (gru)" in result.batchnorms[0].reason


def test_a_bilinear_layer_takes_over_what_follows_it() -> None:
    torch.manual_seed(4)
    run: Callable[..., Any] = lambda s, x: s.n(s.b(torch.tanh(x), x.sin()))  # noqa: E731
    net = randomised(Fn(run, n=nn.BatchNorm1d(4), b=nn.Bilinear(6, 6, 4, bias=False))).double()
    result, error = _folded(net, torch.randn(5, 6).double())
    assert not result.report.kept
    assert error < 1e-14


@pytest.mark.parametrize("zero", [False, True])
def test_a_scale_without_a_shift_goes_past_a_constant(zero: bool) -> None:
    """BatchNorm without a shift, ReLU, + c, a convolution that pads with zeros; c becomes c / a."""
    torch.manual_seed(5)
    run: Callable[..., Any] = lambda s, x: s.c(1.5 - torch.relu(s.n(x)))  # noqa: E731
    net = randomised(Fn(run, n=nn.BatchNorm2d(3), c=nn.Conv2d(3, 4, 3, padding=1))).double()
    with torch.no_grad():
        norm: Any = net.get_submodule("n")
        norm.bias.zero_()
        norm.running_mean.zero_()
        norm.weight.abs_().add_(0.1)
        norm.weight[1] = 0.0 if zero else 0.2
    result, error = _folded(net, torch.randn(2, 3, 6, 6).double())
    assert len(result.report.kept) == zero
    assert error < 1e-14
