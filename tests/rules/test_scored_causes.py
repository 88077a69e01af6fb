"""Small batches, noise, other weights, dropout and one-sided data are told from each other."""

from __future__ import annotations

import copy
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.core.findings import Severity
from bncheck.inspecting.report import InspectReport
from tests.planted import digits, healthy
from tests.training import train

torch.set_num_threads(1)


def causes(report: InspectReport) -> list[str]:
    return [f.rule for f in report.findings if f.severity is not Severity.INFO]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24)
        self.conv3, self.bn3 = nn.Conv2d(24, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.out = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn3(self.conv3(self.bn2(self.conv2(x)).relu())).relu()
        logits: Tensor = self.out(x.mean((2, 3)))
        return logits


@lru_cache
def of_small() -> nn.Module:
    return train(Small(), epochs=4)


def averaged_over(batches: list[Tensor]) -> nn.Module:
    """The running statistics after these batches more in train()."""
    model = copy.deepcopy(of_small()).train()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    return model.eval()


@pytest.mark.parametrize("told", [None, 2])
def test_shuffled_pairs_are_not_sorted_batches(told: int | None) -> None:
    x, y = digits("train")
    torch.manual_seed(1)
    pairs = [x[torch.randint(0, len(x), (2,))] for _ in range(200)]
    report = bncheck.inspect(averaged_over(pairs), (x, y), train_batch_size=told)
    assert causes(report)[:1] == ["BN201"]
    assert "larger batches" in report.findings[0].fix


def test_buffers_of_an_earlier_epoch_are_no_noise() -> None:
    early = train(Small(), epochs=1).state_dict()
    late = copy.deepcopy(of_small())
    state = {n: early[n] if "running" in n else t for n, t in late.state_dict().items()}
    late.load_state_dict(state)
    assert causes(bncheck.inspect(late, digits("train"))) == ["BN202"]


def test_dropout_is_named_though_results_are_no_worse_for_it() -> None:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.7)]
    layers += [nn.Linear(48, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.7)]
    layers += [nn.Linear(48, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)]
    report = bncheck.inspect(train(nn.Sequential(*layers), epochs=4), digits("train"))
    assert causes(report) == ["BN206"]
    assert report.findings[0].layer in {"6", "10"}


@pytest.mark.parametrize("kind", [0, 4])
def test_unlabelled_data_of_mostly_one_kind_break_no_network(kind: int) -> None:
    x, y = digits("train")
    torch.manual_seed(kind)
    many, others = torch.nonzero(y == kind)[:90, 0], torch.nonzero(y != kind)[:60, 0]
    chosen = torch.cat([many, others])[torch.randperm(150)]
    report = bncheck.inspect(copy.deepcopy(healthy()), x[chosen])
    assert causes(report) == []
    assert "distributed otherwise" in report.findings[0].message


class Unrolled(nn.Module):
    """One layer for all steps of time, whose inputs grow."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.onward = nn.Linear(4, 16), nn.Linear(16, 16, bias=False)
        self.bn, self.out = nn.BatchNorm1d(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 16)
        for step in range(x.shape[1]):
            h = self.bn(self.inward(x[:, step]) + self.onward(h)).relu()
        logits: Tensor = self.out(h)
        return logits


def test_a_layer_that_many_steps_of_time_share() -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 24, 4) + torch.arange(24.0)[:, None] / 4
    model = Unrolled()
    with torch.no_grad():
        y = torch.cat([model(part).argmax(1) for part in torch.split(x, 64)])
    report = bncheck.inspect(
        model.eval(), [*zip(torch.split(x, 64), torch.split(y, 64), strict=True)]
    )
    assert causes(report)[:1] == ["BN215"]
    assert report.findings[0].evidence["calls"] == 24
