"""A learning rate belongs to the interval whose statistics it moves."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from torch import Tensor, nn

from bncheck.core.findings import Finding
from bncheck.recording.clock import Clock
from tests.recording.training import Training


@pytest.mark.parametrize("start", [193, 199, 200, 201])
@pytest.mark.parametrize("length", [5, 100])
def test_a_rate_that_rises_about_a_recorded_step_is_no_restart(
    tmp_path: Path, start: int, length: int
) -> None:
    def raised(training: Training, step: int, x: Tensor) -> None:
        training.rate = 5.0 if start <= step < start + length else 0.05

    training = Training(hook=raised, steps=260).run(tmp_path)
    steps = {f.layer: int(str(f.evidence["step"])) for f in training.found if f.rule == "BN304"}
    assert steps.keys() == {"1", "5"}
    assert max(steps.values()) <= 220


def test_the_rates_of_the_last_updates_were_not_followed_yet() -> None:
    clock = Clock()
    for step in range(1, 41):
        clock.tick(step, None, None, 1.0 if step > 30 else 0.1)
    clock.recorded()
    assert clock.peak == 0.1
    for step in range(41, 61):
        clock.tick(step, None, None, 0.1)
    clock.recorded()
    assert clock.peak == 1.0


def test_a_gradient_that_is_not_finite_is_found_at_its_step(tmp_path: Path) -> None:
    now = 0
    first: list[int] = []

    def step_of(own: Training, step: int, x: Tensor) -> None:
        nonlocal now
        now = step
        if not first and not own.model[1].weight.isfinite().all():
            first.append(step - 1)

    training = Training(hook=step_of, steps=140)
    training.model[7].register_full_backward_hook(
        lambda module, inputs, outputs: (inputs[0] * math.nan,) if now == 137 else None
    )
    (found,) = training.run(tmp_path, every=100).found
    assert first == [137]
    assert (found.rule, found.evidence["step"]) == ("BN102", 137)
    assert "1 more layer" in found.message
    assert "of step 135 or earlier" in found.fix


def test_the_checkpoint_to_go_back_to_is_older_than_a_loss_that_is_not_finite(
    tmp_path: Path,
) -> None:
    """Layers without weights show a head that is not finite a step later than the loss."""
    model = nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16, affine=False), nn.ReLU(), nn.Linear(16, 4)
    )

    def broken(own: Training, step: int, x: Tensor) -> None:
        if step == 100:  # what update 99 has made
            own.model[3].weight.data.fill_(math.nan)

    found: list[Finding] = Training(model=model, hook=broken, steps=110).run(tmp_path).found
    first, one = found  # step 100 is a recorded one, whose weights are looked at
    assert first.rule == "BN307"
    assert one.evidence["step"] == 101
    assert "not finite since step 100" in one.message
    assert "of step 98 or earlier" in one.fix
