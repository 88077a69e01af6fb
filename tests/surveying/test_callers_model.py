"""A module in memory stays the caller's, and its numbers do not depend on names or contexts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.surveying.measure import Surface

torch.manual_seed(3)
DATA = [(torch.randn(8, 1, 6, 6), torch.randint(0, 3, (8,))) for _ in range(2)]
WEIGHTS = torch.rand(4) + 0.5


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.mix = nn.Linear(4, 4, bias=False)
        self.again = nn.Linear(4, 4, bias=False)
        self.again.weight = self.mix.weight
        self.head = nn.Linear(4, 3)
        self.norm.weight.data.copy_(WEIGHTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        scores: Tensor = self.head(self.again(self.mix(x)))
        return scores


class Aliased(Plain):
    """Its layers have second names, in attributes and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([self.norm])
        self.last_conv = self.conv
        self.mixes = nn.ModuleDict({"mix": self.mix, "again": self.again})


class Writing(Plain):
    """Its forward writes to a buffer in place, to one by assignment, and to its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Tensor
        self.ema: Tensor
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("ema", torch.zeros(6, 6))
        self.limit = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.count += 1
            self.ema = 0.9 * self.ema + 0.1 * x.mean((0, 1))
            self.limit.mul_(0.5)
            self.head.weight.renorm_(2, 0, 0.1)
        return super().forward(x)


def surface(model: nn.Module) -> Surface:
    return bncheck.landscape(model, DATA, eta=0.05, batches=2).surfaces[0]


@pytest.mark.parametrize("make", [Plain, Aliased, Writing])
def test_nothing_of_the_callers_is_replaced_or_written(make: Callable[[], nn.Module]) -> None:
    model = make()
    nn.functional.cross_entropy(model(DATA[0][0]), DATA[0][1]).backward()  # type: ignore[no-untyped-call]
    objects = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    gradients = {name: p.grad for name, p in model.named_parameters()}
    values = {name: tensor.detach().clone() for name, tensor in objects}
    surface(model)
    found = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    assert list(found) == [name for name, _ in objects]
    assert [name for name, tensor in objects if found[name] is not tensor] == []
    assert [name for name, value in values.items() if not torch.equal(found[name], value)] == []
    assert all(p.grad is gradients[name] for name, p in model.named_parameters())


def test_second_names_change_no_number(tmp_path: Path) -> None:
    plain, aliased = Plain(), Aliased()
    wanted = surface(plain)
    assert surface(aliased) == wanted
    assert surface(aliased) == wanted
    path = tmp_path / "aliased.pt"
    torch.save(aliased.state_dict(), path)
    from_file = bncheck.landscape(path, DATA, eta=0.05, batches=2, model=aliased)
    assert from_file.surfaces[0] == wanted


@pytest.mark.parametrize(
    "context",
    [
        torch.inference_mode,
        torch.no_grad,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    ],
    ids=["inference mode", "no_grad", "autocast"],
)
def test_the_callers_context_changes_no_number(
    context: Callable[[], contextlib.AbstractContextManager[object]],
) -> None:
    wanted = surface(Plain())
    model = Plain()
    with context():
        assert surface(model) == wanted


def test_what_was_made_in_inference_mode_is_surveyed(tmp_path: Path) -> None:
    wanted = surface(Plain())
    path = tmp_path / "plain.pt"
    torch.save(Plain().state_dict(), path)
    with torch.inference_mode():
        data = [(x.clone(), y.clone()) for x, y in DATA]
        made = bncheck.landscape(Plain(), data, eta=0.05, batches=2)
        loaded = bncheck.landscape(path, data, eta=0.05, batches=2, model=Plain())
    assert made.surfaces[0] == wanted
    assert loaded.surfaces[0] == wanted


def test_data_parallel_is_surveyed_as_its_module() -> None:
    assert surface(nn.DataParallel(Plain())) == surface(Plain())
