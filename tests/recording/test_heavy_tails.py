"""Large features that few images have: single batches throw averages, which means nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import bncheck
from bncheck.series.distance import Statistics, distance
from tests.recording.training import Hook, Training


def sparse(seed: int, changes_at: int = 10**9) -> Hook:
    """Log-normal features, of which the first is there in 1 of 100 images."""
    generator = torch.Generator().manual_seed(seed)

    def hook(training: Training, step: int, x: Tensor) -> Tensor:
        there = torch.rand(x.shape, generator=generator) < torch.linspace(0.01, 0.5, 8)
        values = torch.exp(1.5 * torch.randn(x.shape, generator=generator))
        features = torch.where(there, values, torch.zeros_like(x))
        return 3 * features + 4 if step >= changes_at else features

    return hook


def test_rare_features_are_seldom_other_data(tmp_path: Path) -> None:
    """One of these trainings alarms; where every batch is taken for what is usual, most do."""
    alarms = []
    for seed in range(8):
        path = tmp_path / str(seed)
        training = Training(hook=sparse(seed), seed=seed, steps=340).run(path)
        alarms.append(bool(training.found or bncheck.drift([path]).findings))
    assert sum(alarms) <= 2


def test_other_data_are_found_among_rare_features(tmp_path: Path) -> None:
    """In half of these, and then at once and under that name."""
    steps = []
    for seed in range(8):
        training = Training(hook=sparse(seed, 230), seed=seed, steps=260).run(tmp_path / str(seed))
        assert {f.rule for f in training.found} <= {"BN304"}
        steps += [int(str(f.evidence["step"])) for f in training.found[:1]]
    assert steps.count(240) >= 3
    assert set(steps) == {240}


def test_one_channel_does_not_make_half_of_what_most_do() -> None:
    base = Statistics(np.zeros(8, np.float32), np.ones(8, np.float32), 0.0)
    found = Statistics(np.array([9.0, *[0.1] * 7], np.float32), np.ones(8, np.float32), 0.0)
    assert distance(base, found).common ** 2 == pytest.approx(2 * 7 * 0.01 / 8)
