# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,no-any-return"
"""The identity as one more kernel, in float64: every order, factor, group and dimension."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bncheck.folding.program.fold import fold
from tests.folding.patterns.building import Fn, randomised

torch.set_num_threads(1)

#: As a user may write the sum of a(x), b(x) and x.
SUMS: dict[str, Callable[[Fn, Tensor], Tensor]] = {
    "conv + x": lambda s, x: s.a(x) + x,
    "x + conv": lambda s, x: x + s.a(x),
    "x - conv": lambda s, x: x - s.a(x),
    "2 x": lambda s, x: torch.add(s.a(x), x, alpha=2),
    "conv + (conv + x)": lambda s, x: s.a(x) + (s.b(x) + x),
    "(conv + conv) + x": lambda s, x: s.a(x) + s.b(x) + x,
    "(x + conv) - conv": lambda s, x: (x + s.a(x)) - s.b(x),
    "dropout": lambda s, x: s.drop(s.a(x)) + x,
    "pooled": lambda s, x: nn.functional.avg_pool2d(s.a(x) + x, 2),
    "joined": lambda s, x: torch.cat([s.a(x) + x, x + s.b(x)], 2),
    "x added twice": lambda s, x: torch.sub(s.a(x) + x, x, alpha=3),
}  # fmt: skip


def _net(form: str, a: nn.Module, b: nn.Module, norm: nn.Module) -> nn.Module:
    net = Fn(lambda s, x: s.bn(SUMS[form](s, torch.tanh(x))), a=a, b=b, bn=norm, drop=nn.Dropout())
    return randomised(net).double()


def _kept_and_error(net: nn.Module, x: Tensor) -> tuple[int, float]:
    before = copy.deepcopy(net)
    result = fold(net, x)
    with torch.no_grad():
        expected, given = before(x), result.module()(x)
    return len(result.report.kept), float((expected - given).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("form", "groups"), list(itertools.product(SUMS, (1, 2, 4))))
def test_identity_is_one_more_kernel(form: str, groups: int) -> None:
    torch.manual_seed(groups)
    a = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=groups, bias=groups != 2)
    net = _net(form, a, nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    kept, error = _kept_and_error(net, torch.randn(2, 4, 7, 7, dtype=torch.float64))
    assert kept == 0
    assert error < 1e-14


def test_in_one_and_three_dimensions_and_in_features() -> None:
    torch.manual_seed(1)
    cases: list[tuple[nn.Module, nn.Module, tuple[int, ...]]] = [
        (nn.Conv1d(3, 3, 5, padding=2), nn.BatchNorm1d(3), (2, 3, 9)),
        (nn.Conv3d(3, 3, 3, padding=1), nn.BatchNorm3d(3), (2, 3, 4, 4, 4)),
        (nn.Linear(3, 3), nn.BatchNorm1d(3), (5, 3)),
    ]
    for a, norm, shape in cases:
        net = _net("conv + x", a, nn.Identity(), norm)
        kept, error = _kept_and_error(net, torch.randn(shape, dtype=torch.float64))
        assert kept == 0
        assert error < 1e-14


#: Nearby, and not the same: nothing may be folded.
NEARBY: dict[str, Callable[[Fn, Tensor], Tensor]] = {
    "reads another value": lambda s, x: s.a(x * x) + x,
    "moved by one place": lambda s, x: s.a(x) + torch.roll(x, 1, 3),
    "result is read elsewhere": lambda s, x: (y := s.a(x)) + x + torch.tanh(y),
    "activation between": lambda s, x: torch.tanh(s.a(x)) + x,
    "multiplied by itself": lambda s, x: s.a(x) + x * x,
}


@pytest.mark.parametrize("form", NEARBY)
def test_what_is_nearby_stays(form: str) -> None:
    torch.manual_seed(2)
    parts = {"a": nn.Conv2d(4, 4, 3, padding=1), "bn": nn.BatchNorm2d(4)}
    net = randomised(Fn(lambda s, x: s.bn(NEARBY[form](s, torch.tanh(x))), **parts)).double()
    kept, error = _kept_and_error(net, torch.randn(2, 4, 7, 7, dtype=torch.float64))
    assert (kept, error) == (1, 0.0)


@pytest.mark.parametrize(
    "a",
    [
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Sequential(nn.ZeroPad2d((2, 0, 2, 0)), nn.Conv2d(4, 4, 3)),
        nn.Sequential(nn.ConstantPad2d((1, 0, 1, 0), 0.0), nn.Conv2d(4, 4, 2)),
    ],
    ids=["circular", "off centre", "even kernel"],
)
def test_a_kernel_without_a_centre_stays(a: nn.Module) -> None:
    net = _net("conv + x", a, nn.Identity(), nn.BatchNorm2d(4))
    kept, error = _kept_and_error(net, torch.randn(2, 4, 7, 7, dtype=torch.float64))
    assert (kept, error) == (1, 0.0)
