"""Scales and shifts of an input, found by what one layer sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import bncheck
from bncheck.measuring.results import Candidate, fits_better

torch.set_num_threads(1)


def best(model: nn.Module, x: Tensor) -> Candidate:
    measurement = bncheck.inspect(model, x).measurement
    assert measurement is not None
    assert fits_better(measurement.candidates)
    return measurement.candidates[0]


def of_these(stem: nn.Module, channels: int, x: Tensor) -> nn.Module:
    """With statistics of these data, and a layer behind the first."""
    norm = nn.BatchNorm2d if x.ndim == 4 else nn.BatchNorm1d
    kind = nn.Conv2d(channels, 8, 1) if x.ndim == 4 else nn.Linear(channels, 8)
    model = nn.Sequential(stem, norm(channels), nn.ReLU(), kind, norm(8))
    for layer in model:
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.momentum = None
    update_bn([x], model)
    for layer in model:
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.momentum = 0.1
    return model.eval()


def test_with_zero_padding_a_constant_varies_and_the_scale_is_found() -> None:
    torch.manual_seed(0)
    x = torch.randn(128, 1, 8, 8).clamp(-1, 4)
    model = of_these(nn.Conv2d(1, 12, 3, padding=1, bias=False), 12, x)
    given = x * 40 + 100
    found = best(model, given)
    assert found.w2 < 0.01
    torch.testing.assert_close(found.transform(given), x, atol=0.02, rtol=0.01)


def table() -> Tensor:
    torch.manual_seed(1)
    mixed = torch.randn(256, 8) @ (torch.eye(8) + 0.3 * torch.randn(8, 8))
    return mixed * torch.logspace(-1, 1, 8) + torch.arange(8.0)


@pytest.mark.parametrize("factor", [1000.0, 1.8, 1e-3])
def test_one_feature_in_other_units_is_named(factor: float) -> None:
    x = table()
    model = of_these(nn.Linear(8, 24), 24, x)
    given = x.clone()
    given[:, 3] = given[:, 3] * factor + 32
    found = best(model, given)
    assert found.name.startswith("feature 3 * ")
    torch.testing.assert_close(found.transform(given), x, atol=0.1, rtol=0.05)


def test_features_standardised_one_by_one_are_told_from_their_statistics() -> None:
    x = table()
    model = of_these(nn.Linear(8, 24), 24, x)
    given = (x - x.mean(0)) / x.std(0)
    found = best(model, given)
    assert found.name == "each feature on a scale of its own"
    torch.testing.assert_close(found.transform(given), x, atol=0.1, rtol=0.05)


def test_what_no_scale_explains_has_none() -> None:
    """As many channels in another order."""
    x = table()
    model = of_these(nn.Linear(8, 24), 24, x)
    for name in ("running_mean", "running_var"):
        buffer = model.get_submodule("1").get_buffer(name)
        buffer.copy_(buffer.flip(0))
    measurement = bncheck.inspect(model, x).measurement
    assert measurement is not None
    assert not fits_better(measurement.candidates)


def correlated(samples: int) -> Tensor:
    """A table of 24 features, on scales of their own, that are much alike."""
    generator = torch.Generator().manual_seed(2)
    mixed = torch.randn(24, 24, generator=generator) @ torch.diag(torch.logspace(0, -1, 24))
    return torch.randn(samples, 24, generator=generator) @ mixed.T + torch.arange(24.0)


def test_a_batch_on_another_scale_is_not_taken_for_scales_of_the_features() -> None:
    """Shifts of the features explain the means of any batch, and scales much of its variances."""
    x = correlated(512)
    torch.manual_seed(3)
    model = of_these(nn.Linear(24, 64), 64, x).train()
    with torch.no_grad():
        model(100 * x[:16])
    measurement = bncheck.inspect(model.eval(), x).measurement
    assert measurement is not None
    assert not fits_better(measurement.candidates)


def test_the_same_features_on_scales_of_their_own_are_told() -> None:
    x = correlated(512)
    scales = torch.logspace(-1, 1, 24).roll(7)
    torch.manual_seed(3)
    found = best(of_these(nn.Linear(24, 64), 64, x), x * scales + scales)
    assert found.name == "each feature on a scale of its own"
