"""A few places of a map show what a region does, and every number of its kernels is among them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bncheck.folding.program import fold as folding
from bncheck.folding.program import parity
from bncheck.folding.program.fold import fold
from bncheck.folding.program.parity import ProgramSides
from bncheck.folding.program.rewrite import rewrite
from bncheck.folding.program.running import run_as_written
from tests.architectures import randomised


class _Net(nn.Module):
    """A dilated convolution and its norm, at sizes of which a few places are a small part."""

    def __init__(self, dilation: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=dilation, dilation=dilation)
        self.bn, self.act = nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.act(self.bn(self.conv(torch.tanh(x))))
        return y


class _Placed(_Net):
    """The same with a number for each place of the map on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.rand(1, 1, 40, 40))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.bn(self.conv(torch.tanh(x)) + self.places)
        return y


def _read(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The sizes of what regions are computed on."""
    seen: list[tuple[int, ...]] = []
    right = ProgramSides.exits

    def watched(self: ProgramSides, region: int, values: Any, **rest: Any) -> Any:
        seen.extend(values[name].shape for name in self.entries(region))
        return right(self, region, values, **rest)

    monkeypatch.setattr(ProgramSides, "exits", watched)
    fold(randomised(net), torch.randn(2, 3, 40, 40)).refuse_unsound()
    return seen


@pytest.mark.parametrize(("dilation", "size"), [(1, 6), (9, 22), (30, 40)])
def test_every_tap_of_a_kernel_meets_the_map(
    dilation: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(_read(_Net(dilation), monkeypatch)) == {(1, 3, size, size)}


def test_where_places_differ_the_whole_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(_read(_Placed(), monkeypatch)) == {(2, 3, 40, 40)}


@pytest.mark.parametrize("tap", [(0, 0, 0, 0), (3, 2, 2, 2), (1, 1, 1, 1)])
def test_a_wrong_number_anywhere_in_a_kernel_is_seen(
    tap: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*given: Any) -> Any:
        made = rewrite(*given)
        with torch.no_grad():
            made.program.state_dict["conv.weight"][tap] += 0.01
        return made

    monkeypatch.setattr(folding, "rewrite", wrong)
    result = fold(randomised(_Net()), torch.randn(2, 3, 40, 40))
    assert result.parity is not None
    assert result.parity.parts_at == "bn"


def test_a_program_is_run_once_for_each_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice two batches: of the original, calls in place or not, and of the fold."""
    runs: list[object] = []

    def counted(program: object, *rest: Any) -> Any:
        runs.append(program)
        return run_as_written(program, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(parity, "run_as_written", counted)
    fold(randomised(_Net()), torch.randn(2, 3, 40, 40)).refuse_unsound()
    assert [runs.count(program) for program in dict.fromkeys(runs)] == [2, 2]
