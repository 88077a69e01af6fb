"""A training that is not finite where no running statistics show it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import bncheck
from bncheck.core.findings import Severity
from bncheck.recording import Recorder
from tests.recording.training import Training, batch

_NAN = float("nan")


def told(folder: Path, losses: Mapping[int, object], every: int, steps: int = 80) -> Training:
    """A sound training whose loss is said to be what `losses` says from a step on."""
    training, generator = Training(steps=steps), torch.Generator().manual_seed(0)
    recorder = Recorder(training.model, folder, every=every, on_finding=training.found.append)
    said: object = 0.5
    for step in range(1, steps + 1):
        training.step(*batch(generator))
        said = losses.get(step, said)
        recorder.step(loss=said)
    recorder.close()
    return training


@pytest.mark.parametrize("loss", [_NAN, torch.tensor(_NAN), float("inf")])
@pytest.mark.parametrize("every", [1, 10])
def test_a_loss_that_stays_nan_is_found_and_in_the_record(
    tmp_path: Path, loss: object, every: int
) -> None:
    (found,) = told(tmp_path, {31: loss}, every).found
    assert (found.rule, found.severity, found.layer) == ("BN307", Severity.ERROR, None)
    assert "from step 31 " in found.message
    assert 51 <= int(str(found.evidence["step"])) <= 70
    (again,) = bncheck.drift([tmp_path]).findings
    assert (again.rule, again.layer) == ("BN307", None)


def test_some_batches_without_a_loss_are_no_fault(tmp_path: Path) -> None:
    """A scale that falls, batches without labels, and steps of which no loss is told."""
    losses = {5: _NAN, 20: 0.4, 22: _NAN, 23: None, 39: 0.3, 60: _NAN}
    assert not told(tmp_path, losses, 5, 75).found
    assert not bncheck.drift([tmp_path]).findings


def nan_in_the_head(training: Training, step: int, x: Tensor) -> None:
    """All but the head stand still, so that nothing else gets NaN."""
    if step == 1:
        training.model[:-1].requires_grad_(False).eval()
    if step == 50:
        training.model[-1].weight.data[1] = _NAN


def test_a_weight_that_nothing_normalises(tmp_path: Path) -> None:
    training = Training(steps=80, hook=nan_in_the_head)
    training.model.train = lambda *_: training.model  # as a frozen backbone does it
    (found,) = training.run(tmp_path, every=10).found
    assert (found.rule, found.layer, found.evidence["step"]) == ("BN307", None, 50)
    assert "('7.weight' is the first)" in found.message
    assert [(f.rule, f.layer) for f in bncheck.drift([tmp_path]).findings] == [("BN307", None)]


def test_a_mask_of_infinity_is_no_weight(tmp_path: Path) -> None:
    def close(training: Training, step: int, x: Tensor) -> None:
        if step == 15:
            training.model.mask.fill_(float("-inf"))

    training = Training(steps=40, hook=close)
    mask = torch.nn.Parameter(torch.zeros(8), requires_grad=False)
    training.model.register_parameter("mask", mask)
    assert not training.run(tmp_path, every=10).found


def test_what_running_statistics_show_is_told_once(tmp_path: Path) -> None:
    def nan(training: Training, step: int, x: Tensor) -> Tensor | None:
        return x * _NAN if step == 37 else None

    training = Training(steps=80, hook=nan).run(tmp_path, every=10)
    assert {finding.rule for finding in training.found} == {"BN102"}
