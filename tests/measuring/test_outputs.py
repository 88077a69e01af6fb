"""Outputs that `drift --layers all` measures: modules, and functions that modules call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bncheck.measuring.outputs import Outputs


def watched(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    with torch.no_grad(), Outputs(model).watched(
        lambda name, value, channels: seen.__setitem__(name, value.clone())
    ):  # fmt: skip
        model(x)
    return seen


class Calling(nn.Module):
    """Calls one function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.relu, "relu"),
        (functional.relu, "relu"),
        (lambda x: functional.relu(x, inplace=True), "relu"),
        (lambda x: x.clone().relu_(), "relu"),
        (Tensor.relu, "relu"),
        (functional.gelu, "gelu"),
        (functional.silu, "silu"),
        (functional.hardswish, "hardswish"),
        (lambda x: functional.leaky_relu(x, 0.2), "leaky_relu"),
        (torch.sigmoid, "sigmoid"),
        (lambda x: x.tanh(), "tanh"),
    ],
)
def test_activations_called_as_functions_are_seen(function: Any, name: str) -> None:
    x = torch.randn(4, 3, 5, 5)
    seen = watched(nn.Sequential(nn.Identity(), Calling(function)), x.clone())
    assert list(seen) == [f"1.{name}()"]
    torch.testing.assert_close(seen[f"1.{name}()"], function(x.clone()))


def test_modules_are_seen_once_and_calls_are_told_apart() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.conv(x))
            for _ in range(20):
                x = torch.tanh(x)
            return torch.softmax(torch.relu(x) + torch.relu(-x), dim=1)

    net = Net()
    seen = list(watched(net, torch.randn(2, 3, 4, 4)))
    tanhs = ["tanh()", *(f"tanh() {number}" for number in range(2, 17))]
    assert seen == ["conv", "act", *tanhs, "relu()", "relu() 2"]
    assert list(watched(net, torch.randn(2, 3, 4, 4))) == seen
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_nothing_stays_behind_when_the_model_raises() -> None:
    def wrong(x: Tensor) -> Tensor:
        raise RuntimeError("no")

    net = nn.Sequential(nn.Conv2d(3, 4, 1), Calling(wrong))
    with pytest.raises(RuntimeError, match="no"):
        watched(net, torch.randn(2, 3, 4, 4))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.overrides._get_current_function_mode() is None  # type: ignore[no-untyped-call]
