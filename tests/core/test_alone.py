"""The caller's random numbers and autocast: a call leaves them, and does not depend on them."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn

import bncheck


class Drawing(nn.Sequential):
    """Draws from everybody's generators in its forward."""

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(()) + random.random() + np.random.default_rng(0).random()
        noise = noise + np.random.rand()
        y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return y + 0 * noise


def model() -> Drawing:
    torch.manual_seed(0)
    return Drawing(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).eval()


def draws() -> tuple[float, float, float]:
    return float(torch.rand(())), random.random(), float(np.random.rand())


def test_random_numbers_go_on_as_if_there_had_been_no_call() -> None:
    net, data = model(), [torch.randn(32, 4) for _ in range(2)]
    np.random.seed(3)
    random.seed(3)
    torch.manual_seed(3)
    wanted = draws()
    for call in (bncheck.inspect, bncheck.recalibrate):
        np.random.seed(3)
        random.seed(3)
        torch.manual_seed(3)
        call(net, data)
        assert draws() == wanted


def test_autocast_of_the_caller_is_off() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).eval()
    net[1].running_mean = torch.randn(8)
    x = torch.randn(64, 4)
    plain = bncheck.fold(net, x[:2]).parity, bncheck.inspect(net, [x]).measurement
    with torch.autocast("cpu"):
        under = bncheck.fold(net, x[:2]).parity, bncheck.inspect(net, [x]).measurement
        assert torch.is_autocast_enabled("cpu")
    assert plain[0] is not None
    assert under[0] is not None
    assert under[0].tolerance == plain[0].tolerance == 1e-5
    assert under[0].max_relative_error == plain[0].max_relative_error
    assert plain[1] is not None
    assert under[1] is not None
    assert under[1].w2 == plain[1].w2
