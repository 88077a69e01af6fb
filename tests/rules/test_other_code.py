"""BN214: the code of the model is not that of the training, and what it was is named."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn import functional

import bncheck
from bncheck.inspecting.report import InspectReport
from tests.planted import digits, refreshed, reset_layer
from tests.training import train

Function = Callable[..., Tensor]


class Depthwise(nn.Module):
    """Separable convolutions, functions between the layers, pooling by a call."""

    def __init__(
        self, act: Function = functional.relu, pool: Function = functional.max_pool2d,
        pad: Any = "zeros", eps: float = 1e-5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.act, self.pool = act, pool
        sizes = [(1, 12, 1), (12, 12, 12), (12, 24, 1), (24, 24, 24), (24, 24, 1)]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, groups=g, padding_mode=pad, bias=False)
            for a, b, g in sizes
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(b, eps) for _, b, _ in sizes)
        self.fc = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        for place, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = self.act(norm(conv(x)))
            x = self.pool(x, 2) if place == 2 else x
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Residual(nn.Module):
    """Modules between the layers, working in place."""

    def __init__(self, act: Callable[[], nn.Module] = lambda: nn.ReLU(inplace=True)) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), act())
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), act(),
                nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16),
            )
            for _ in range(2)
        )  # fmt: skip
        self.act = act()
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = self.act(x + block(x))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def silus() -> nn.Module:
    return Residual(nn.SiLU)


def nothing(x: Tensor) -> Tensor:
    return x


#: What it was trained as, what it is built as, what is named.
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], str]] = {
    "activation": (
        lambda: Depthwise(functional.silu), Depthwise, "SiLU in place of ReLU",
    ),
    "no activation": (
        Depthwise, lambda: Depthwise(nothing), "ReLU behind the normalisation layers",
    ),
    "pooling": (
        lambda: Depthwise(pool=functional.avg_pool2d), Depthwise,
        "avg_pool2d in place of max_pool2d",
    ),
    "no padding mode": (Depthwise, lambda: Depthwise(pad="reflect"), "padding mode zeros"),
    "eps": (Depthwise, lambda: Depthwise(eps=0.1), "eps 1e-05"),
    "modules in place": (silus, Residual, "SiLU in place of ReLU"),
    "identity": (
        Residual, lambda: Residual(nn.Identity), "ReLU in place of Identity",
    ),
}  # fmt: skip


@lru_cache
def trained(make: Callable[[], nn.Module]) -> nn.Module:
    return train(make(), epochs=4)


def as_built(name: str) -> nn.Module:
    make, other, _ = CASES[name]
    model = other()
    model.load_state_dict(trained(make).state_dict())
    return model.eval()


def some() -> tuple[Tensor, Tensor]:
    """A third of the digits: what each layer sees is known by them."""
    x, y = digits("train")
    return x[:512], y[:512]


def serious(report: InspectReport) -> list[Any]:
    return [finding for finding in report.findings if finding.severity != "info"]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_what_the_code_was_is_named(name: str, labelled: bool) -> None:
    x, y = some()
    report = bncheck.inspect(as_built(name), (x, y) if labelled else x)
    assert [finding.rule for finding in serious(report)] == ["BN214"]
    (finding,) = serious(report)
    assert finding.evidence["exchange"] == CASES[name][2]
    assert finding.evidence["explained"] >= 0.75
    assert "recalibrate" not in finding.fix


def test_nothing_is_written() -> None:
    report = bncheck.recalibrate(as_built("activation"), some()[0])
    assert report.reason is not None


@pytest.mark.parametrize("make", [Depthwise, Residual, silus])
def test_the_code_of_the_training_is_healthy(make: Callable[[], nn.Module]) -> None:
    assert not serious(bncheck.inspect(trained(make), some()))


FAULTS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "reset": lambda model, x: reset_layer(model, "norms.2"),
    "noisy": lambda model, x: refreshed(model, x, momentum=1.0, batch_size=8),
    "other data": lambda model, x: refreshed(model, x * 3, reset=True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_statistics_are_no_other_code(fault: str) -> None:
    model = FAULTS[fault](trained(Depthwise), some()[0])
    report = bncheck.inspect(model, some())
    assert serious(report)
    assert "BN214" not in {finding.rule for finding in report.findings}


def test_the_model_is_not_run_again_where_something_else_explains_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran = []
    monkeypatch.setattr("bncheck.measuring.replay._run", lambda *args: ran.append(args))
    bncheck.inspect(reset_layer(trained(Depthwise), "norms.2"), some())
    assert ran == []
    bncheck.inspect(as_built("activation"), some())
    assert ran
