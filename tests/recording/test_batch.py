"""Moments of a batch: right far from 0, averaged over calls, and what an update tells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bncheck.measuring.norms import norms_of
from bncheck.recording.batch import Batch, Glance, noise_of
from bncheck.recording.meter import BatchMeter
from bncheck.recording.modules import Watched
from bncheck.recording.seeing import Held, furthest, pooled, seen
from bncheck.recording.spread import Spread
from bncheck.recording.state import copied
from bncheck.recording.updates import from_updates


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


def held(layer: nn.Module) -> Held:
    """The statistics of one layer as they are."""
    return Held.of(norms_of(layer), copied(dict(layer.named_buffers())))


@pytest.mark.parametrize("momentum", [0.1, 0.9, None])
def test_the_update_of_a_layer_tells_its_batch(momentum: float | None) -> None:
    torch.manual_seed(0)
    layer = nn.BatchNorm1d(4, momentum=momentum)
    for _ in range(3):
        layer(torch.randn(64, 4))
    before = held(layer)
    x = 2 * torch.randn(64, 4) + 1
    layer(x)
    batch = from_updates(before, held(layer), [""], {}, {})[""]
    np.testing.assert_allclose(batch.mean, x.mean(0).numpy(), atol=1e-4)
    np.testing.assert_allclose(batch.var, x.var(0).numpy(), rtol=1e-4)


@pytest.mark.parametrize("change", ["eval", "reset", "two calls", "momentum 0"])
def test_an_update_that_was_not_looked_at_tells_nothing(change: str) -> None:
    layer = nn.BatchNorm1d(4)
    for _ in range(3):
        layer(torch.randn(64, 4))
    before = held(layer)
    if change == "momentum 0":
        layer.momentum = 0.0
    layer(torch.randn(64, 4))
    if change == "two calls":
        layer(torch.randn(64, 4))
    if change == "reset":
        layer.reset_running_stats()
    layer.train(change != "eval")
    assert from_updates(before, held(layer), [""], {"": Glance(1, 64, 1.0)}, {}) == {}


def test_a_look_and_the_update_tell_what_the_moments_do() -> None:
    """Twice the same step: measured, and only looked at."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3))
    calls = [torch.randn(16, 3, 8, 8) * 2 + 3 for _ in range(2)]
    (measured_batch,) = measured(model, *calls).values()
    norm: nn.Module = model[0]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.reset_running_stats()
    norm.momentum = 0.1
    before = held(model)
    meter = BatchMeter(Watched.of("", model, False), print, print)
    meter.attach(brief=True)
    for x in calls:
        model(x)
    meter.detach()
    batches, glances = meter.take()
    assert batches == {}
    assert glances["0"] == Glance(2, 32.0, measured_batch.largest)
    found = from_updates(before, held(model), ["0"], glances, {"0": measured_batch})["0"]
    # A running average weighs the later call more, by 1/(1 - m).
    np.testing.assert_allclose(found.mean, measured_batch.mean, atol=0.01)
    np.testing.assert_allclose(found.var, measured_batch.var, rtol=0.02)
    np.testing.assert_array_equal(found.unit, measured_batch.unit)


def made(shift: float, images: int, seed: int, channels: int = 256) -> Batch:
    rng = np.random.default_rng(seed)
    x = rng.normal(shift, 1, (images, channels))
    var = x.var(0, ddof=1)
    return Batch(x.mean(0), var, np.full(channels, 1.5), images, 1, float(abs(x).max()))


def right(channels: int = 256) -> Held:
    """A layer whose statistics are 0 and 1."""
    return held(nn.BatchNorm1d(channels, eps=0.0))


@pytest.mark.parametrize("images", [8, 64, 512])
def test_noise_is_taken_off(images: int) -> None:
    """Right statistics, a batch of few images: what is left is far below what is said."""
    spreads = [Spread(np.zeros(256)) for _ in range(20)]
    found = [
        seen({"": made(0, images, seed)}, right(), spread)[""].w2 or 0.0
        for seed, spread in enumerate(spreads)
    ]
    assert np.mean(found) < 0.1
    off = seen({"": made(1, images, 0)}, right(), spreads[0])[""]
    assert off.w2 == pytest.approx(1, abs=0.1)


def test_what_few_images_have_is_no_deviation_once_it_was_seen() -> None:
    """Features of one image in 200, in batches of 16: W2^2 over its noise is about 1 in the end.

    A batch's own spread is nothing where none of its images has a feature, and the network is
    taken for one that has lost it.
    """
    rng, spread, ratios = np.random.default_rng(0), Spread(np.zeros(256)), []
    layer = nn.BatchNorm1d(256, eps=1e-5)
    layer.running_mean = torch.full((256,), 1 / 200)
    layer.running_var = torch.full((256,), 1 / 200 - 1 / 200**2)
    layer.num_batches_tracked = torch.tensor(1000)
    statistics = held(layer)
    for _ in range(60):
        x = (rng.random((16, 256)) < 1 / 200).astype(np.float64)
        var = x.var(0, ddof=1)
        of_squares = ((x - x.mean(0)) ** 2).var(0, ddof=1)
        unit = noise_of(var, var, of_squares, 16)
        told = seen({"": Batch(x.mean(0), var, unit, 16, 1, 1.0)}, statistics, spread)[""]
        assert told.w2 is not None
        assert told.noise
        ratios.append(told.w2**2 / told.noise)
    assert np.mean(ratios[10:]) < 0.5
    shifted = Batch(np.full(256, 0.5), np.full(256, 0.25), np.ones(256), 16, 1, 1.0)
    told = seen({"": shifted}, statistics, spread)[""]
    assert told.w2 is not None
    assert told.noise
    assert told.w2**2 / told.noise > 10


def test_a_jump_is_not_learnt_as_what_is_usual() -> None:
    """Else the batches of a process with other data would be usual from the second on."""
    spread, statistics = Spread(np.zeros(256)), right()
    statistics.counters[0] = 1000.0  # type: ignore[index]
    for seed in range(10):
        seen({"": made(0, 64, seed)}, statistics, spread)
    before = spread.noise.mean()
    assert before == pytest.approx(1.5 / 64, rel=0.2)
    seen({"": made(1, 64, 11)}, statistics, spread)
    assert spread.noise.mean() == before
    seen({"": made(1, 64, 12)}, statistics, spread)
    assert spread.noise.mean() == pytest.approx(before, rel=0.2)


def test_a_channel_that_is_constant_in_a_batch_has_no_scale_to_be_wrong() -> None:
    batch = Batch(np.zeros(4), np.array([0, 1, 1, 1.0]), np.zeros(4), 64, 1, 1.0)
    layer = nn.BatchNorm1d(4, eps=1e-5)
    (told,) = seen({"": batch}, held(layer), Spread(np.zeros(4))).values()
    assert told.w2 == pytest.approx(0, abs=1e-6)


def test_the_process_with_other_data_is_found() -> None:
    batches = [made(0, 64, 0), made(0, 64, 1), made(0.5, 64, 2), made(0, 64, 3)]
    square, noise, rank = furthest(batches, 0.0, np.zeros(256))
    assert rank == 2
    assert (square - noise) ** 0.5 == pytest.approx(0.5, abs=0.1)
    assert noise == pytest.approx(1.5 / 64 * 4 / 3, rel=0.2)
    square, noise, _ = furthest(batches[:2], 0.0, np.zeros(256))
    assert square < 1.5 * noise
    assert furthest(batches, 0.0, np.full(256, 0.1))[1] == pytest.approx(0.1 * 16 / 3, rel=0.2)


def test_synchronised_layers_share_the_variance_between_processes() -> None:
    batches = [made(-3, 512, 0), made(3, 512, 1)]
    assert pooled(batches, True).var == pytest.approx(10, abs=1.5)
    assert pooled(batches, False).var == pytest.approx(1, abs=0.5)
