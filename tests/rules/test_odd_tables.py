"""Tables with heavy tails, one-hot columns, or a batch on another scale in their statistics."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.core.findings import Finding, Severity
from bncheck.rules.data.scoring import by_chance

torch.set_num_threads(1)


def table(categories: int, shares: Tensor | None = None) -> Tensor:
    """Standardised numbers, the last of which has a heavy tail, and categories beside them."""
    torch.manual_seed(0)
    numbers = torch.randn(1024, 12)
    numbers[:, -1] = numbers[:, -1].mul(2.5).exp()
    drawn = torch.multinomial(torch.ones(categories) if shares is None else shares, 1024, True)
    numbers = (numbers - numbers.mean(0)) / numbers.std(0)
    return torch.cat([numbers, nn.functional.one_hot(drawn, categories)], 1)


def sound(x: Tensor, itself: bool, width: int = 64) -> tuple[nn.Module, Tensor]:
    """A network whose first norm is fed the table itself or behind a linear layer."""
    torch.manual_seed(1)
    features = x.shape[1]
    layers: list[nn.Module] = [nn.BatchNorm1d(features)] if itself else []
    for inward, outward in ((features, width), (width, 32)):
        layers += [nn.Linear(inward, outward), nn.BatchNorm1d(outward), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(32, 4))
    with torch.no_grad():
        for _ in range(120):
            model(x[torch.randint(0, len(x), (64,))])
        return model.eval(), model(x).argmax(1)


def causes(model: nn.Module, data: Tensor | tuple[Tensor, Tensor]) -> list[Finding]:
    found = bncheck.inspect(model, data).findings
    return [f for f in found if f.severity is not Severity.INFO]


@pytest.mark.parametrize("categories", [8, 22])
def test_a_column_with_a_heavy_tail_makes_no_noise_of_others(categories: int) -> None:
    x = table(categories)
    model, y = sound(x, True)
    units = torch.cat([25.4 * x[:, :1], x[:, 1:3], 1.8 * x[:, 3:4] + 2, x[:, 4:]], 1)
    assert causes(model, (units, y))[0].rule == "BN205"
    assert bncheck.recalibrate(model, (units, y)).reason is not None


def numbers_and_a_category(seed: int, shares: Tensor) -> Tensor:
    torch.manual_seed(seed)
    numbers, drawn = torch.randn(1024, 6), torch.multinomial(shares, 1024, True)
    return torch.cat([numbers, nn.functional.one_hot(drawn, 6)], 1)


def test_other_shares_of_categories_permute_no_channels() -> None:
    model, _ = sound(numbers_and_a_category(0, torch.linspace(1, 3, 6)), False, 128)
    others = numbers_and_a_category(5, torch.linspace(3, 1, 6) ** 6)
    assert "BN211" not in [f.rule for f in causes(model, others)]
    assert bncheck.recalibrate(model, others).reason is not None


def test_the_mean_of_one_batch_on_another_scale_is_chance() -> None:
    torch.manual_seed(0)
    x = torch.cat([torch.randn(1024, 8), nn.functional.one_hot(torch.arange(1024) % 12)], 1)
    model, y = sound(x, False, 128)
    model.train()
    with torch.no_grad():
        model(300 * x[:32])
    found = causes(model.eval(), (x, y))[0]
    assert (found.rule, found.layer) == ("BN212", "1")


def test_chance_spares_no_channel_and_overdoes_none() -> None:
    torch.manual_seed(0)
    expected = torch.linspace(0.5, 2, 64).numpy()
    squares = expected * torch.randn(64).square().numpy()
    whole = float(squares.sum())
    assert 0.9 * whole < by_chance(squares, expected, 2.5) <= whole
    one = squares.copy()
    one[0] += 100
    assert by_chance(one, expected, 2.5) < 0.6 * float(one.sum())
    squares[:40] = 0
    assert by_chance(squares, expected, 2.5) == 0
