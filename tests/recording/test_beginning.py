"""Young averages without what they began with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.measuring.norms import norms_of
from bncheck.recording.beginning import Beginning
from bncheck.recording.seeing import Held
from bncheck.recording.state import copied
from tests.recording.training import Training, net


def held(layer: nn.Module) -> Held:
    return Held.of(norms_of(layer), copied(dict(layer.named_buffers())))


def updated(layer: nn.Module, number: int) -> list[Tensor]:
    """The layer sees so many batches."""
    batches = [2 * torch.randn(64, 4) + 5 for _ in range(number)]
    for batch in batches:
        layer(batch)
    return batches


@pytest.mark.parametrize("before", [0, 7])
def test_a_young_average_is_that_of_its_batches(before: int) -> None:
    """Whatever it began with: here also with an average of seven batches of something else."""
    torch.manual_seed(0)
    layer, beginning = nn.BatchNorm1d(4, momentum=0.01), Beginning()
    for _ in range(before):
        layer(torch.randn(64, 4) - 3)
    beginning.note(held(layer))
    batches = updated(layer, 120)
    young = beginning.without(held(layer))
    assert young is not None
    weights = np.array([0.99**age for age in range(len(batches))][::-1])
    for found, wanted in (
        (young.mean, [batch.mean(0).numpy() for batch in batches]),
        (young.var, [batch.var(0).numpy() for batch in batches]),
    ):
        np.testing.assert_allclose(found, np.average(wanted, axis=0, weights=weights), rtol=1e-4)


@pytest.mark.parametrize(
    ("momentum", "updates"),
    [(0.01, 29), (0.01, 60), (0.01, 300), (0.1, 30), (0.0, 100), (None, 50)],
)
def test_an_average_is_young_while_it_tells_enough_and_its_beginning_matters(
    momentum: float | None, updates: int
) -> None:
    layer, beginning = nn.BatchNorm1d(4, momentum=momentum), Beginning()
    updated(layer, 1)
    beginning.note(held(layer))
    updated(layer, updates)
    assert beginning.without(held(layer)) is None


@pytest.mark.parametrize("change", ["momentum", "reset"])
def test_an_average_begins_anew(change: str) -> None:
    layer, beginning = nn.BatchNorm1d(4, momentum=0.02), Beginning()
    beginning.note(held(layer))
    updated(layer, 60)
    assert beginning.without(held(layer)) is not None
    if change == "momentum":
        layer.momentum = 0.01
    else:
        layer.reset_running_stats()
    beginning.note(held(layer))
    updated(layer, 20)
    assert beginning.without(held(layer)) is None


@pytest.mark.parametrize(("at", "codes"), [(180, {"BN304"}), (1000, set())])
def test_other_data_are_found_before_a_small_momentum_has_followed(
    tmp_path_factory: pytest.TempPathFactory, at: int, codes: set[str]
) -> None:
    def other(training: Training, step: int, x: Tensor) -> Tensor | None:
        return 2 * x + 2 if step >= at else None

    torch.manual_seed(0)
    training = Training(net(0.01), steps=240, hook=other)
    training.run(tmp_path_factory.mktemp("record"), every=10)
    assert {finding.rule for finding in training.found} == codes
    assert all(at <= int(str(f.evidence["step"])) <= at + 30 for f in training.found)


def test_another_momentum_is_no_change_of_the_data(tmp_path: Path) -> None:
    """What was judged without its beginning is held against batches with it from then on."""

    def quicker(training: Training, step: int, x: Tensor) -> Tensor:
        if step == 85:
            for layer in training.model.modules():
                if isinstance(layer, nn.BatchNorm1d):
                    layer.momentum = 0.05
        return 2 * x + 9  # far from what averages begin with

    torch.manual_seed(0)
    training = Training(net(0.01), 0.001, 110, hook=quicker).run(tmp_path, every=3)
    assert not training.found
    assert not bncheck.drift([tmp_path]).findings
