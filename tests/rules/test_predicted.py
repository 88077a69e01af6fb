"""Explanations that predict every layer: of other batches, other scales, other places."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.core.findings import Finding
from tests import planted
from tests.planted import SAMPLES, DigitNet

torch.set_num_threads(1)


@cache
def healthy() -> nn.Module:
    net = DigitNet()
    state = bncheck.open_checkpoint(SAMPLES / "healthy.pt").tensors
    net.load_state_dict({n: torch.from_numpy(t) for n, t in state.items()})
    return net.eval()


def worst(model: nn.Module, data: Any) -> Finding:
    report = bncheck.inspect(model, data)
    return next(f for f in report.findings if f.severity.value != "info")


def batches_of(kinds: set[int] | None) -> nn.Module:
    """The healthy network after batches sorted by class, or of some classes only."""
    x, y = planted.digits("train")
    order = torch.argsort(y, stable=True)
    if kinds is not None:
        few = torch.nonzero(torch.tensor([int(label) in kinds for label in y]))[:, 0]
        order = few[torch.randperm(len(few), generator=torch.Generator().manual_seed(1))]
        order = order.repeat(3)
    return planted.refreshed(healthy(), x, order=order)


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("kinds", [None, {0, 1, 2, 3}])
def test_batches_that_were_not_mixed_are_run_and_explain(
    kinds: set[int] | None, labels: bool
) -> None:
    x, y = planted.digits("train")
    found = worst(batches_of(kinds), (x[:1024], y[:1024]) if labels else x[:1024])
    assert found.rule == "BN204"
    explained: Any = found.evidence["explained"]
    assert explained > 0.85


def test_a_shard_is_named_by_its_classes() -> None:
    x, y = planted.digits("train")
    found = worst(batches_of({0, 1, 2, 3}), (x[:1024], y[:1024]))
    assert "batches of some classes only" in found.message
    kinds: Any = found.evidence["kinds"]
    assert {int(kind.split(":")[0]) for kind in kinds} <= {0, 1, 2, 3}


def test_noise_is_not_taken_for_an_order() -> None:
    x, _ = planted.digits("train")
    noisy = planted.refreshed(healthy(), x, batch_size=4, momentum=0.9, max_steps=200)
    assert worst(noisy, x[:1024]).rule == "BN201"


class Residual(nn.Module):
    """Nothing is normalised on the way from block to block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(20, 32)
        self.norms = nn.ModuleList(nn.BatchNorm1d(32) for _ in range(3))
        self.inner = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, inner in zip(self.norms, self.inner, strict=True):
            x = x + inner(torch.relu(norm(x)))
        return x


def test_an_outlier_goes_along_a_residual_stream() -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 20)
    model = planted.refreshed(Residual().eval(), x, reset=True, passes=8)
    sick = planted.refreshed(model, 100 * x[:32])
    found = worst(sick, x)
    assert found.rule == "BN212"
    scale, weight = (float(str(found.evidence[name])) for name in ("scale", "weight"))
    assert scale**2 * weight == pytest.approx(100**2 * 0.1, rel=0.2)  # means of 0 tell no more


def scaled_columns(x: Tensor) -> Tensor:
    return x * torch.logspace(-1, 2, 20) + 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (scaled_columns, "every feature with mean 0 and std 1"),
        (lambda x: 3 * x + 1, "mean 0 and std 1"),
        (lambda x: -x, "the other sign"),
        (lambda x: x * 32768, "x / 32768"),
    ],
)
def test_preparations_of_vectors(change: Callable[[Tensor], Tensor], words: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 20).exp()  # skewed, so that a sign shows
    x = (x - x.mean(0)) / x.std(0)
    net = nn.Sequential(
        nn.Linear(20, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 16), nn.BatchNorm1d(16),
        nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16),
    )  # fmt: skip
    model = planted.refreshed(net.eval(), x, reset=True, passes=8)
    found = worst(model, change(x))
    assert found.rule == "BN205"
    assert words in found.message


def test_of_many_layers_the_right_owner_is_found() -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(30):
        layers += [nn.Linear(24, 24), nn.BatchNorm1d(24), nn.ReLU()]
    x = torch.randn(512, 24)
    model = planted.refreshed(nn.Sequential(*layers).eval(), x, reset=True, passes=8)
    norms = planted.norms_of(model)
    rng = np.random.default_rng(0)
    one, other = (int(i) for i in rng.choice(30, 2, replace=False))
    for buffer in ("running_mean", "running_var"):
        a, b = getattr(norms[one], buffer), getattr(norms[other], buffer)
        kept = a.clone()
        a.copy_(b)
        b.copy_(kept)
    report = bncheck.inspect(model, x)
    found = [f for f in report.findings if f.rule == "BN211"]
    assert {f.evidence["belongs_to"] for f in found} == {f"{3 * one + 1}", f"{3 * other + 1}"}
