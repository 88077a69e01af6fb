"""BN215: one layer for inputs of different distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import bncheck
from bncheck.inspecting.report import InspectReport
from tests.planted import digits
from tests.training import train


class Siamese(nn.Module):
    """Both inputs through the same layers, their features together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.fc = nn.Linear(48, 10)

    def features(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x))).mean((2, 3))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.cat([self.features(a), self.features(b)], 1))
        return logits


class Domains(nn.Module):
    """Vectors of two domains in turn; only the first is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 32),
            nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10),
        )  # fmt: skip

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        logits: Tensor = self.net(a) + 0 * self.net(b).sum()
        return logits


class Recurrent(nn.Module):
    """One layer for all steps of time."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.onward = nn.Linear(8, 32), nn.Linear(32, 32)
        self.bn, self.fc = nn.BatchNorm1d(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), 32)
        for step in range(8):
            h = torch.tanh(self.bn(self.inward(x[:, 0, step]) + self.onward(h)))
        logits: Tensor = self.fc(h)
        return logits


def inputs(alike: bool) -> tuple[Tensor, Tensor]:
    x, _ = digits("train")
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return x, x.flip(3) if alike else 3 * x.flip(3) - 2 + 1.5 * noise


@lru_cache
def trained(make: Callable[[], nn.Module], alike: bool) -> nn.Module:
    return train(make(), inputs(alike), epochs=4)


def inspected(model: nn.Module, alike: bool) -> InspectReport:
    a, b = inputs(alike)
    _, y = digits("train")
    some = torch.arange(512)  # a third: what each layer sees is known by them

    def batches() -> Iterator[tuple[Tensor, ...]]:
        for index in torch.split(some, 64):
            yield a[index], b[index], y[index]

    return bncheck.inspect(model, batches)


@pytest.mark.parametrize(("make", "layer"), [(Siamese, "bn1"), (Domains, "net.2")])
def test_inputs_of_different_distributions_are_named(
    make: Callable[[], nn.Module], layer: str
) -> None:
    report = inspected(trained(make, False), False)
    found = [finding for finding in report.findings if finding.severity != "info"]
    assert [(finding.rule, finding.layer) for finding in found] == [("BN215", layer)]
    assert found[0].evidence["calls"] == 2
    assert found[0].evidence["calls_w2"] > 0.2  # type: ignore[operator]
    assert "a layer of its own" in found[0].fix
    assert "run `" not in found[0].fix


@pytest.mark.parametrize("make", [Siamese, Domains])
def test_inputs_that_are_alike_are_healthy(make: Callable[[], nn.Module]) -> None:
    assert inspected(trained(make, True), True).summary.verdict == "healthy"


def test_steps_of_time_are_none_of_it() -> None:
    report = bncheck.inspect(train(Recurrent(), epochs=4), digits("train"))
    assert "BN215" not in {finding.rule for finding in report.findings}


def test_another_fault_of_a_shared_layer_keeps_its_name() -> None:
    """Called twice on inputs that are alike, and never updated."""
    model = train(Siamese(), inputs(True), seed=1, epochs=4)
    model.get_submodule("bn2").reset_running_stats()  # type: ignore[operator]
    report = inspected(model, True)
    assert report.summary.cause == "BN101"
