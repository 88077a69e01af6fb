"""Moments of a batch: right far from 0, averaged over calls, and what an update tells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bncheck.reading.training_state import Seen
from bncheck.recording.batch import Batch, from_update
from bncheck.recording.meter import BatchMeter
from bncheck.recording.modules import Watched
from bncheck.recording.seeing import furthest, pooled, seen


def measured(model: nn.Module, *inputs: Tensor) -> dict[str, Batch]:
    problems: list[object] = []
    meter = BatchMeter(Watched.of("", model, False), problems.append, problems.append)
    meter.attach()
    for x in inputs:
        model(x)
    meter.detach()
    assert problems == []
    return meter.take()[0]


@pytest.mark.parametrize("ratio", [0.0, 10.0, 1e3, 1e4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_moments_far_from_zero(ratio: float, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    x = (torch.randn(16, 3, 8, 8) + ratio).contiguous(memory_format=layout)
    batch = measured(nn.Sequential(nn.BatchNorm2d(3)), x)["0"]
    values = x.double().transpose(0, 1).flatten(1).numpy()
    np.testing.assert_allclose(batch.mean, values.mean(1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(batch.var, values.var(1, ddof=1), rtol=2e-3)
    assert batch.largest == pytest.approx(float(x.abs().max()))
    assert batch.images == 16


def test_calls_of_a_step_are_averaged_and_not_pooled() -> None:
    """As a running average takes them: two calls far apart have no variance between them."""
    torch.manual_seed(0)
    first, second = torch.randn(64, 4), torch.randn(64, 4) + 10
    batch = measured(nn.Sequential(nn.BatchNorm1d(4)), first, second)["0"]
    assert batch.calls == 2
    assert batch.mean == pytest.approx(5, abs=0.5)
    assert batch.var == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("momentum", [0.1, 0.9, None])
def test_the_update_of_a_layer_tells_its_batch(momentum: float | None) -> None:
    torch.manual_seed(0)
    layer = nn.BatchNorm1d(4, momentum=momentum)
    for _ in range(3):
        layer(torch.randn(64, 4))
    before = (layer.running_mean.double().numpy(), layer.running_var.double().numpy())  # type: ignore[union-attr]
    x = 2 * torch.randn(64, 4) + 1
    layer(x)
    after = (layer.running_mean.double().numpy(), layer.running_var.double().numpy())  # type: ignore[union-attr]
    batch = from_update(before, after, 3 / 4 if momentum is None else 1 - momentum)
    assert batch is not None
    np.testing.assert_allclose(batch.mean, x.mean(0).numpy(), atol=1e-4)
    np.testing.assert_allclose(batch.var, x.var(0).numpy(), rtol=1e-4)
    assert from_update(before, after, 1.0) is None


def made(shift: float, images: int, seed: int, channels: int = 256) -> Batch:
    rng = np.random.default_rng(seed)
    x = rng.normal(shift, 1, (images, channels))
    var = x.var(0, ddof=1)
    return Batch(x.mean(0), var, var, 2 * var**2, images, 1, float(abs(x).max()))


@pytest.mark.parametrize("images", [8, 64, 512])
def test_noise_is_taken_off(images: int) -> None:
    """Right statistics, a batch of few images: what is left is far below what is said."""
    zeros, ones = np.zeros(256), np.ones(256)
    found = [seen(made(0, images, seed), zeros, ones, 0.0, 0.1).w2 or 0.0 for seed in range(20)]
    assert np.mean(found) < 0.1
    off = seen(made(1, images, 0), zeros, ones, 0.0, 0.1)
    assert isinstance(off, Seen)
    assert off.w2 == pytest.approx(1, abs=0.1)


def test_the_process_with_other_data_is_found() -> None:
    batches = [made(0, 64, 0), made(0, 64, 1), made(0.5, 64, 2), made(0, 64, 3)]
    apart, rank = furthest(batches, 0.0)
    assert rank == 2
    assert apart == pytest.approx(0.5, abs=0.1)
    assert furthest([batch for batch in batches if batch is not batches[2]], 0.0)[0] == 0.0


def test_synchronised_layers_share_the_variance_between_processes() -> None:
    batches = [made(-3, 512, 0), made(3, 512, 1)]
    assert pooled(batches, True).var == pytest.approx(10, abs=1.5)
    assert pooled(batches, False).var == pytest.approx(1, abs=0.5)
