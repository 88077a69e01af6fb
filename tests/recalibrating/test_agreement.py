"""recalibrate writes where inspect of the same input prints its command, and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.inspecting.from_file import InspectOptions
from bncheck.inspecting.report import InspectReport
from bncheck.inspecting.with_data import beyond_repair
from bncheck.measuring.measurement import Measurement
from bncheck.measuring.results import Comparison, Direction
from bncheck.recalibrating.command import recalibrate_file
from bncheck.reporting.documents.inspect import document
from bncheck.reporting.documents.recalibrate import document as outcome
from bncheck.rules.data.objection import objection, unproven
from bncheck.subject.setup import Measuring
from tests import planted
from tests.planted import SAMPLES, DigitNet

torch.set_num_threads(1)

MODEL, TRAINING = str(SAMPLES / "nets.py:DigitNet"), str(SAMPLES / "digits-train.npz")
FILES = ("healthy", "one-layer-reset", "stale", "class-sorted", "wrong-input-scale")


@cache
def network(name: str) -> nn.Module:
    net = DigitNet()
    tensors = bncheck.open_checkpoint(SAMPLES / f"{name}.pt").tensors
    net.load_state_dict({n: torch.from_numpy(array) for n, array in tensors.items()})
    net.eval()
    return net


def labelled(x: Tensor, y: Tensor) -> object:
    return x[:300], y[:300]


def bare(x: Tensor, y: Tensor) -> object:
    return x[:300]


def of_three_classes(x: Tensor, y: Tensor) -> object:
    return x[y < 3][:300]


def of_another_scale(x: Tensor, y: Tensor) -> object:
    return 40 * x[:300] + 100, y[:300]


def serious(report: InspectReport) -> list[Finding]:
    return [f for f in report.findings if f.severity is not Severity.INFO]


def recommended(report: InspectReport) -> bool:
    return any("run `" in finding.fix for finding in serious(report))


@pytest.mark.parametrize("data", [labelled, bare, of_three_classes, of_another_scale])
@pytest.mark.parametrize("name", FILES)
def test_it_writes_where_inspect_says_so(name: str, data: object) -> None:
    assert callable(data)
    given = data(*planted.digits("train"))
    report, done = bncheck.inspect(network(name), given), bncheck.recalibrate(network(name), given)
    assert recommended(report) == (done.reason is None), (report.findings, done.reason)
    assert not any("force" in command for command in document(report).next_steps)
    forced = bncheck.recalibrate(network(name), given, force=True)
    assert (forced.reason, forced.forced) == (None, done.reason)
    assert all(finding.severity is Severity.WARNING for finding in forced.findings)
    assert [f.rule for f in forced.findings] == [f.rule for f in done.findings]
    if name == "healthy":
        assert done.reason is not None


def blurred(x: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(x, 3, 1, 1)


def cut(x: Tensor) -> Tensor:
    return torch.cat([x[:, :, :5], torch.full_like(x[:, :, 5:], float(x.min()))], 2)


def covered(x: Tensor) -> Tensor:
    return torch.cat([x[:, :, :4], torch.zeros_like(x[:, :, 4:])], 2)


def shifted(x: Tensor) -> Tensor:
    return x.roll(2, 3)


@pytest.mark.parametrize("change", [blurred, cut, covered, shifted])
def test_other_images_do_not_overwrite_a_sound_network(change: Callable[[Tensor], Tensor]) -> None:
    """It does better with their statistics, and worse than before on those of training."""
    x, y = planted.digits("train")
    given = change(x[:600]), y[:600]
    done = bncheck.recalibrate(network("healthy"), given)
    assert done.comparison is not None
    assert done.comparison.direction is Direction.BETTER
    assert done.reason is not None
    assert "nothing shows that it is the statistics" in done.reason
    assert not recommended(bncheck.inspect(network("healthy"), given))


def test_one_sided_data_without_labels_do_not_overwrite_a_sound_network() -> None:
    x, y = planted.digits("train")
    done = bncheck.recalibrate(network("healthy"), of_three_classes(x, y))
    assert done.reason is not None
    assert "confidence" in done.reason


class Threshold(nn.Module):
    """Is the first of two numbers above its mean? The running means are `off` by so many sd."""

    def __init__(self, *off: float, momentum: float = 0.1) -> None:
        super().__init__()
        self.bn, self.head = nn.BatchNorm1d(2, momentum=momentum), nn.Linear(2, 2)
        self.bn.running_mean = torch.tensor(off) + 3
        self.bn.running_var = torch.full((2,), 1.01)
        self.bn.num_batches_tracked = torch.tensor(1000)
        with torch.no_grad():
            self.bn.weight.fill_(1.5)
            self.head.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.bn(x))
        return out


def numbers(gap: float = 0.0) -> tuple[Tensor, Tensor]:
    """2,000 pairs of mean 3 and variance 1; with a gap no first number is near its mean."""
    x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    x[:, 0] = x[:, 0].sign() * (x[:, 0].abs() + gap)
    x = (x - x.mean(dim=0)) / x.std(dim=0)
    return x + 3, (x[:, 0] > 0).long()


def test_inspect_judges_variances_of_exactly_1_that_agree_with_the_data() -> None:
    """BN118 was asked of the layers after one that no pass with batch statistics had reached."""
    net = Threshold(0.05, 0.05)
    net.bn.running_var = torch.ones(2)
    (finding,) = (f for f in bncheck.inspect(net, numbers()).findings if f.rule == "BN118")
    assert finding.severity is Severity.INFO


def test_what_inspect_calls_healthy_is_left_alone_though_results_would_be_better() -> None:
    done = bncheck.recalibrate(Threshold(0.06, 0.06), numbers())
    assert not serious(bncheck.inspect(Threshold(0.06, 0.06), numbers()))
    agree = "the running statistics agree with the data (largest W2 0.05)"
    assert done.reason == f"{agree}, so there is nothing to repair"
    assert not done.findings  # no fault was found, and none is said to be
    said = outcome(done, "net")
    assert (said.verdict, said.standing) == ("left alone", None)
    assert said.facts[-1].text == f"nothing written: {done.reason}"


def test_results_of_a_part_of_the_samples_say_so() -> None:
    report = bncheck.inspect(Threshold(0.15, 0.15), numbers())
    (finding,) = serious(report)
    assert finding.message.endswith("(of the first 567 samples)")
    assert any("(of the first 567 samples)" in fact.text for fact in document(report).facts)
    done = bncheck.recalibrate(Threshold(0.15, 0.15), numbers())
    assert done.samples == 2000
    assert recommended(report) == (done.reason is None)


@pytest.mark.parametrize("off", [0.0, 0.06, 0.35])
def test_the_fix_of_a_momentum_is_possible(off: float) -> None:
    """BN112 calls for `recalibrate` where that does not refuse, and nowhere else."""
    net, data = Threshold(0.0, off, momentum=0.99), numbers(gap=2.0)
    report, done = bncheck.inspect(net, data), bncheck.recalibrate(net, data)
    (finding,) = (f for f in report.findings if f.rule == "BN112")
    assert ("recalibrate" in finding.fix) == (done.reason is None) == (off > 0.2)


def _set(name: str, value: float) -> Callable[[nn.BatchNorm1d], object]:
    return lambda norm: norm.get_buffer(name)[:2].fill_(value)


@pytest.mark.parametrize(
    ("code", "edit", "instead"),
    [
        ("BN101", nn.BatchNorm1d.reset_running_stats, "load the buffers that belong to these"),
        ("BN102", _set("running_var", math.nan), "skip non-finite batches while training"),
        ("BN103", _set("running_var", -1.0), "take the statistics from before the merge"),
        ("BN118", lambda norm: norm.running_mean.zero_(), "load the means under their name"),
    ],
)
def test_a_fix_says_what_to_do_instead_of_recalibrating(
    code: str, edit: Callable[[nn.BatchNorm1d], object], instead: str
) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8))
    for norm in (net[1], net[3]):
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.uniform_(1, 2)
        norm.running_var.uniform_(2, 3)
        norm.weight.data.uniform_(1, 2)
    assert isinstance(net[3], nn.BatchNorm1d)
    edit(net[3])
    finding = next(f for f in bncheck.inspect(net.eval()).findings if f.rule == code)
    assert "recalibrate" in finding.fix
    assert (finding.instead or "").startswith(instead)
    assert "recalibrate" not in (finding.instead or "")


def compared(direction: Direction, **figures: object) -> Measurement:
    labels = direction is not Direction.UNKNOWN
    value = 0.9 if labels else None
    found = Comparison("accuracy" if labels else None, value, value, direction, 500, **figures)  # type: ignore[arg-type]
    return Measurement((), 500, 500, 50, comparison=found)


def test_as_many_right_answers_prove_nothing_where_the_loss_rises() -> None:
    worse = {"loss": (0.729, 0.859), "loss_gain": -3.0}
    found = unproven(compared(Direction.SAME, **worse))
    assert found is not None
    assert found.why == "accuracy would stay the same, and the loss would rise from 0.729 to 0.859"
    assert unproven(compared(Direction.SAME, loss=(0.7, 0.71), loss_gain=-1.0)) is None
    assert unproven(compared(Direction.BETTER, **worse)) is None
    assert objection(compared(Direction.SAME, **worse)) is None  # BN101 and such need no proof


def test_without_labels_confidence_is_evidence_while_most_predictions_stay() -> None:
    unknown = Direction.UNKNOWN
    assert unproven(compared(unknown, confidence=(0.471, 0.365), flips=0.086)) is not None
    assert unproven(compared(unknown, confidence=(0.471, 0.640), flips=0.086)) is None
    assert unproven(compared(unknown, confidence=(0.993, 0.810), flips=0.89)) is None
    found = unproven(compared(unknown, output_change=0.3))
    assert found is not None
    assert found.why == "without labels nothing shows that it helps"


def never(output: Tensor, target: Tensor) -> float:
    return math.nan


def of_numbers(output: Tensor, target: Tensor) -> float:
    """NaN where the model's own outputs are."""
    return float(output.max())


def test_a_metric_that_gives_no_number_is_an_error() -> None:
    data = labelled(*planted.digits("train"))
    for judge in (bncheck.inspect, bncheck.recalibrate):
        with pytest.raises(BncheckError, match=r"`metric`: gave nan for a batch of \d+ samples"):
            judge(network("stale"), data, metric=never)


def test_a_metric_of_outputs_that_are_no_numbers_speaks_for_a_repair() -> None:
    net, data = Threshold(0.0, 0.0), numbers()
    net.bn.running_var = torch.full((2,), math.nan)
    done = bncheck.recalibrate(net, data, metric=of_numbers)
    assert done.reason is None
    assert done.comparison is not None
    assert done.comparison.direction is Direction.BETTER


def test_what_the_file_lacks_a_copy_cannot_hold(tmp_path: Path) -> None:
    state = network("healthy").state_dict()
    torch.save({n: t for n, t in state.items() if "bn2.running" not in n}, tmp_path / "net.pt")
    measuring = Measuring(MODEL, TRAINING)
    with pytest.raises(BncheckError, match=r"lacks running statistics of bn2 \(BN104\)"):
        recalibrate_file(tmp_path / "net.pt", tmp_path / "out.pt", InspectOptions(), measuring)
    assert not (tmp_path / "out.pt").exists()


def test_what_new_statistics_repair_is_no_matter_of_words() -> None:
    net = Threshold(0.0, 0.0)
    net.bn.running_mean = torch.full((2,), math.nan)
    (mean,) = (f for f in bncheck.inspect(net).findings if f.rule == "BN102")
    net.bn.weight.data[0] = math.nan
    (weight,) = (f for f in bncheck.inspect(net).findings if f.rule == "BN102")
    assert not beyond_repair(replace(mean, fix="measure them again"))
    assert beyond_repair(replace(weight, fix="do not recalibrate"))


def test_weights_that_are_not_finite_are_beyond_repair() -> None:
    net = Threshold(0.0, 0.0)
    net.bn.running_mean = torch.full((2,), math.nan)
    data = numbers()
    assert recommended(bncheck.inspect(net, data))
    net.bn.weight.data[0] = math.nan
    assert not recommended(bncheck.inspect(net, data))
    with pytest.raises(BncheckError, match=r"bn: NaN .* new statistics do not repair; go back to"):
        bncheck.recalibrate(net, data)
