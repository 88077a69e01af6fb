"""Findings that results decide: which statistics serve, or none, or it makes no difference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.core.findings import Severity, Verdict
from bncheck.inspecting.report import InspectReport
from tests import planted

torch.set_num_threads(1)


class Contrast(nn.Module):
    """Is a pixel brighter than its surroundings? Right where each image is normalised alone."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.head = nn.BatchNorm2d(1), nn.Conv2d(1, 2, 1)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1))
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.bn.load_state_dict({"running_mean": torch.full((1,), 3.0)}, strict=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.bn(x))
        return out


def images() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    pattern = torch.randn(256, 1, 8, 8)
    pattern -= pattern.mean(dim=(2, 3), keepdim=True)
    return pattern * 0.5 + torch.randn(256, 1, 1, 1) * 3, (pattern[:, 0] > 0).long()


@pytest.mark.parametrize("train_batch_size", [None, 1])
def test_a_network_that_depends_on_its_batch(train_batch_size: int | None) -> None:
    net, data = Contrast().eval(), images()
    report = bncheck.inspect(net, data, train_batch_size=train_batch_size)
    assert report.summary.cause == "BN216"
    assert report.summary.verdict is Verdict.BROKEN
    results = report.to_dict()["results"]
    assert isinstance(results, dict)
    assert results["batch"] > 0.98
    assert results["batch_size"] == 1
    assert max(results["running"], results["measured"]) < 0.7
    assert "recalibrating does not help" in report.findings[0].fix
    assert bncheck.recalibrate(net, data, train_batch_size=train_batch_size).reason is not None


def test_batches_that_serve_no_better_are_no_finding() -> None:
    """A sound network whose statistics are stale: measured ones serve as well as batches."""
    x, y = planted.digits("train")
    net = planted.healthy()
    net.get_submodule("bn2").running_var.mul_(9)  # type: ignore[operator]
    report = bncheck.inspect(net, (x, y))
    assert "BN216" not in {f.rule for f in report.findings}


class OneLayer(nn.Module):
    """A linear layer of known weights behind a norm."""

    def __init__(self, mean: Tensor, var: Tensor) -> None:
        super().__init__()
        self.bn, self.head = nn.BatchNorm1d(2), nn.Linear(2, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
            nn.init.zeros_(self.head.bias)
        self.bn.load_state_dict({"running_mean": mean, "running_var": var}, strict=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.bn(x))
        return out


def shifted(off: float, margin: float) -> InspectReport:
    """A mean off by so many deviations; no sample lies nearer to the border than `margin`."""
    torch.manual_seed(0)
    x = torch.randn(2000, 2)
    x = x[x[:, 0].abs() >= margin][:1024]
    mean, var = x.mean(dim=0), x.var(dim=0)
    net = OneLayer(mean + torch.tensor([off, 0.0]) * var.sqrt(), var)
    return bncheck.inspect(net.eval(), (x, (x[:, 0] > 0).long()))


def test_a_loss_of_results_is_a_finding_though_w2_is_small() -> None:
    report = shifted(0.25, 0.0)
    assert report.summary.w2 is not None
    assert 0.10 < report.summary.w2 < 0.20
    assert report.summary.verdict is Verdict.SUSPECT
    serious = [f for f in report.findings if f.severity is not Severity.INFO]
    assert [f.severity for f in serious] == [Severity.WARNING]
    assert report.measurement is not None
    assert report.measurement.comparison is not None
    assert report.measurement.comparison.samples == 512


def test_no_loss_of_results_is_none() -> None:
    report = shifted(0.25, 0.5)
    assert report.summary.verdict is Verdict.HEALTHY


def test_an_error_of_the_file_stays_one_where_results_are_equal() -> None:
    """A layer at 0 and 1 among trained ones: no difference here is no proof for other data."""
    x, y = planted.digits("train")
    net = planted.healthy()
    norm = net.get_submodule("bn1")
    norm.running_mean.zero_()  # type: ignore[operator]
    norm.running_var.fill_(1)  # type: ignore[operator]
    alone, together = bncheck.inspect(net), bncheck.inspect(net, (x, y))
    assert [f.severity for f in alone.findings if f.rule == "BN101"] == [Severity.ERROR]
    assert together.summary.verdict is Verdict.BROKEN


@pytest.mark.parametrize("labels", [False, True])
def test_a_block_that_was_not_loaded_is_told_without_labels(labels: bool) -> None:
    x, y = planted.digits("train")
    net = planted.healthy()
    torch.manual_seed(0)
    for name in ("conv3", "bn3"):
        net.get_submodule(name).reset_parameters()  # type: ignore[operator]
    data = (x, y) if labels else x
    first = bncheck.inspect(net, data).findings[0]
    assert (first.rule, first.layer) == ("BN213", "bn3")
    assert bncheck.recalibrate(net, data).reason is not None


def test_a_reset_layer_of_trained_weights_is_mended_without_labels() -> None:
    net = planted.healthy()
    net.get_submodule("bn3").reset_running_stats()  # type: ignore[operator]
    x = planted.digits("train")[0]
    assert bncheck.inspect(net, x).findings[0].rule == "BN101"
    assert bncheck.recalibrate(net, x).reason is None
