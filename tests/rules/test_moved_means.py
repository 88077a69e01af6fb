"""BN210: means moved by a bias are told from means that other weights left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.core.findings import Finding, Severity
from bncheck.data import Batch
from bncheck.measuring.biases import biases
from bncheck.measuring.instrumented import Instrumented

torch.set_num_threads(1)


class Averaged(nn.Module):
    """Its second norm is behind an average over places, which varies little beside its mean."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.conv, self.bn1 = nn.Conv1d(3, 12, 5, padding=2, bias=bias), nn.BatchNorm1d(12)
        self.fc, self.bn2 = nn.Linear(12, 24, bias=bias), nn.BatchNorm1d(24)
        self.out = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv(x)).relu().mean(2)
        logits: Tensor = self.out(self.bn2(self.fc(x)).relu())
        return logits


def wide(bias: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for inward in (20, 48, 48):
        layers += [nn.Linear(inward, 48, bias=bias), nn.BatchNorm1d(48), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(48, 5))


def sound(build: Callable[[bool], nn.Module], bias: bool) -> tuple[nn.Module, Tensor, Tensor]:
    """A network with statistics of its data, and the labels that it gives them."""
    torch.manual_seed(0)
    x = torch.randn(512, 3, 48) if build is Averaged else torch.randn(512, 20)
    model = build(bias)
    for norm in norms(model):
        norm.momentum = None
    with torch.no_grad():
        for part in torch.split(x, 64):
            model(part)
        y = model.eval()(x).argmax(1)
    for norm in norms(model):
        norm.momentum, norm.num_batches_tracked = 0.1, torch.tensor(400)
    return model, x, y


def norms(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]


def cause(model: nn.Module, x: Tensor, y: Tensor) -> Finding:
    found = bncheck.inspect(model, (x, y)).findings
    return next(f for f in found if f.severity is not Severity.INFO)


def with_bias(model: nn.Module, name: str, bias: Tensor) -> nn.Module:
    changed = copy.deepcopy(model)
    changed.get_submodule(name).bias = nn.Parameter(bias)
    return changed


@pytest.mark.parametrize("bias", [False, True])
def test_weights_that_moved_on_a_little_lost_no_bias(bias: bool) -> None:
    model, x, y = sound(Averaged, bias)
    with torch.no_grad():
        for layer in (model.get_submodule("conv"), model.get_submodule("fc")):
            weight: Any = layer.weight
            weight += 0.05 * weight.std() * torch.randn(weight.shape)
    assert cause(model, x, y).rule == "BN202"


def test_a_bias_that_was_lost_behind_an_average() -> None:
    model, x, y = sound(Averaged, True)
    found = cause(with_bias(model, "fc", torch.zeros(24)), x, y)
    assert (found.rule, found.layer) == ("BN210", "bn2")
    assert "lost" in found.message


def test_a_small_bias_that_was_added_is_known_by_its_numbers() -> None:
    model, x, y = sound(wide, False)
    for name in ("0", "3", "6"):
        model = with_bias(model, name, 0.12 * torch.randn(48))
    found = cause(model, x, y)
    assert found.rule == "BN210"
    assert "added after" in found.message


def test_the_bias_of_what_feeds_a_layer() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 8)
            self.bns = nn.ModuleList(nn.BatchNorm1d(n) for n in (4, 4, 8, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = self.bns[0](self.a(x))
            x = self.bns[1](torch.relu_(self.b(x)))  # other numbers in the same place
            found: Tensor = self.bns[2](self.c(x)) + self.bns[3](self.c(x) + 1)
            return found

    model = Odd().eval()
    found = biases(Instrumented.of(model), Batch((torch.randn(4, 4),)))
    assert found.keys() == {"bns.0", "bns.2"}
    assert found["bns.0"].tolist() == pytest.approx(model.a.bias.tolist())
