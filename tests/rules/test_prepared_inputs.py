"""BN205 for every input, and where a layer is fed the input itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.core.findings import Finding, Severity

torch.set_num_threads(1)

Given = list[tuple[Tensor, ...]]


class Multi(nn.Module):
    """An image and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 12, 3), nn.BatchNorm2d(12), nn.ReLU(),
        )  # fmt: skip
        self.table = nn.Sequential(nn.Linear(8, 24), nn.BatchNorm1d(24), nn.ReLU())
        self.out = nn.Linear(36, 10)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        logits: Tensor = self.out(torch.cat([self.image(image).mean((2, 3)), self.table(table)], 1))
        return logits


class First(nn.Module):
    """A BatchNorm in the place of standardisation."""

    def __init__(self) -> None:
        super().__init__()
        self.raw, self.hidden = nn.BatchNorm1d(12), nn.Linear(12, 32)
        self.norm, self.out = nn.BatchNorm1d(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.norm(self.hidden(self.raw(x))).relu())
        return logits


def sound(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[nn.Module, Tensor]:
    """The model with the statistics of these inputs, and what it then says of them."""
    model.train()
    with torch.no_grad():
        for _ in range(60):
            chosen = torch.randint(0, len(inputs[0]), (64,))
            model(*(x[chosen] for x in inputs))
        return model.eval(), model(*inputs).argmax(1)


def batches(*tensors: Tensor) -> Given:
    return list(zip(*(torch.split(x, 64) for x in tensors), strict=True))


def first(model: nn.Module, data: Given) -> Finding:
    report = bncheck.inspect(model, data)
    return next(f for f in report.findings if f.severity is not Severity.INFO)


def two() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    image, table = torch.randn(512, 1, 8, 8), torch.randn(512, 8) * torch.logspace(0, 1, 8) + 5
    model, y = sound(Multi(), (image, table))
    return model, image, table, y


def standardised(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.std(0)


def in_other_units(x: Tensor) -> Tensor:
    return torch.cat([x[:, :3], x[:, 3:4] * 1000, x[:, 4:]], 1)


def smaller(x: Tensor) -> Tensor:
    return (x - 5) / 10


@pytest.mark.parametrize(
    ("change", "labels"), [(standardised, False), (in_other_units, False), (smaller, True)]
)
def test_the_table_of_a_network_with_an_image_is_looked_at(
    change: Callable[[Tensor], Tensor], labels: bool
) -> None:
    model, image, table, y = two()
    assert not bncheck.inspect(model, batches(image, table, y)).findings
    data = batches(image, change(table), *([y] if labels else []))
    if not labels:
        data = [{"image": a, "table": b} for a, b in data]  # type: ignore[misc]
    found = first(model, data)
    assert (found.rule, found.layer) == ("BN205", "table.1")
    assert "input 2 is not preprocessed" in found.message
    assert not found.fix.startswith("run ")
    assert bncheck.recalibrate(model, data).reason is not None


def test_the_image_is_looked_at_as_well() -> None:
    model, image, table, y = two()
    found = first(model, batches(image * 127 + 127, table, y))
    assert (found.rule, found.layer) == ("BN205", "image.1")
    assert "input 1 is not preprocessed" in found.message


@pytest.mark.parametrize("change", [standardised, lambda x: 2 * x, in_other_units])
def test_a_layer_that_is_fed_the_input_itself(change: Callable[[Tensor], Tensor]) -> None:
    """Measured statistics restore all results, whichever of the two is wrong."""
    torch.manual_seed(0)
    x = torch.randn(512, 12) * torch.logspace(-1, 2, 12) + 30
    model, y = sound(First(), (x,))
    data = batches(change(x), y)
    found = first(model, data)
    assert (found.rule, found.layer) == ("BN205", "raw")
    assert not found.fix.startswith("run ")
    assert bncheck.recalibrate(model, data).reason is not None


def test_its_statistics_that_were_never_updated_keep_their_name() -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 12) * torch.logspace(-1, 2, 12) + 30
    model, y = sound(First(), (x,))
    model.get_submodule("raw").reset_running_stats()  # type: ignore[operator]
    found = first(model, batches(x, y))
    assert (found.rule, found.layer) == ("BN101", "raw")
    assert found.fix.startswith("run ")


@pytest.mark.filterwarnings("error")
def test_an_input_of_one_number_has_no_spread_of_its_own() -> None:
    """torch warned of it, on the user's stderr."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(8)
    net, x = nn.Sequential(nn.Linear(1, 8), norm, nn.ReLU(), nn.Linear(8, 2)), torch.randn(300, 1)
    for _ in range(200):
        net(x[torch.randperm(300)[:64]])
    assert norm.running_mean is not None
    norm.running_mean += 2
    found = bncheck.inspect(net.eval(), (5 * x + 2, (x[:, 0] > 0).long())).findings
    assert "BN207" in [finding.rule for finding in found]
