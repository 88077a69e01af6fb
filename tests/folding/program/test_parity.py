"""A few places of a map show what a region does, and every number of its kernels is among them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from bncheck.folding.fold import FoldOptions
from bncheck.folding.planner.families import Norms
from bncheck.folding.program import fold as folding
from bncheck.folding.program import parity
from bncheck.folding.program.fold import fold
from bncheck.folding.program.parity import ProgramSides
from bncheck.folding.program.rewrite import rewrite
from bncheck.folding.program.running import run_as_written
from tests.architectures import randomised


class _Net(nn.Module):
    """A dilated convolution and its norm, at sizes of which a few places are a small part."""

    def __init__(self, dilation: int = 1, stride: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, stride, padding=dilation, dilation=dilation)
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


#: What a wrong fold adds, by the places of its result.
_PLACES: dict[str, Any] = {
    "top": (..., slice(1), slice(None)),
    "bottom": (..., slice(-1, None), slice(None)),
    "left": (..., slice(1)),
    "right": (..., slice(-1, None)),
    "corner": (..., slice(-1, None), slice(1)),
    "one place": (..., slice(7, 8), slice(9, 10)),
    "one number": (slice(1, 2), slice(2, 3), slice(-1, None), slice(-1, None)),
}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("place", _PLACES)
def test_a_fold_that_is_wrong_at_some_places_alone_is_refused(
    place: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a border its region shows it; what only that place shows is left to the whole."""

    def damaged(y: torch.Tensor) -> torch.Tensor:
        y = y.clone()
        y[_PLACES[place]] += 10.0 if place.startswith("one") else 0.01  # no ReLU hides the former
        return y

    def wrong(*given: Any) -> Any:
        made = rewrite(*given)
        (node,) = (n for n in made.program.graph.nodes if "conv2d" in str(n.target))
        with made.program.graph.inserting_after(node):
            added = made.program.graph.call_function(damaged, (node,))
        added.meta.update(node.meta)
        node.replace_all_uses_with(added, lambda user: user is not added)
        names = {old: added.name for old, new in made.twins.items() if new == node.name}
        made.program.graph_module.recompile()
        return replace(made, twins={**made.twins, **names})

    net = randomised(_Net(stride=stride))
    assert fold(net, torch.randn(2, 3, 41, 40)).parity.holds  # type: ignore[union-attr]
    monkeypatch.setattr(folding, "rewrite", wrong)
    parity = fold(net, torch.randn(2, 3, 41, 40)).parity
    assert parity is not None
    assert not parity.holds
    if not place.startswith("one"):
        assert parity.parts_at == "bn"


def test_a_wrong_number_of_one_place_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*given: Any) -> Any:
        made = rewrite(*given)
        (name,) = (n for n, t in made.program.state_dict.items() if t.shape[-2:] == (40, 40))
        with torch.no_grad():
            made.program.state_dict[name][..., 23, 5] += 0.1
        return made

    monkeypatch.setattr(folding, "rewrite", wrong)
    parity = fold(randomised(_Placed()), torch.randn(2, 3, 40, 40)).parity
    assert parity is not None
    assert parity.parts_at == "bn"


@pytest.mark.parametrize("feature", [0, 7, 95])
def test_a_wrong_number_of_one_feature_of_tokens_is_seen(
    feature: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their features are the last axis: of many tokens each has its own numbers."""

    def wrong(*given: Any) -> Any:
        made = rewrite(*given)
        with torch.no_grad():
            made.program.state_dict["1.weight"][feature] *= 1.01
        return made

    norm = nn.LayerNorm(96)
    nn.init.uniform_(norm.weight, 0.5, 2)
    net = nn.Sequential(norm, nn.Linear(96, 96), nn.GELU())
    monkeypatch.setattr(folding, "rewrite", wrong)
    parity = fold(net.eval(), torch.randn(2, 50, 96), FoldOptions(norms=Norms.ALL)).parity
    assert parity is not None
    assert parity.parts_at == "1"


class _Joined(nn.Module):
    """Branches of other steps: of odd sizes they fit only where their borders are as in the map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = torch.nn.functional.max_pool2d(x, 2, 2, ceil_mode=True)
        y: torch.Tensor = self.bn(torch.cat([self.conv(x), pooled], 1))
        return y


@pytest.mark.parametrize("size", [40, 41])
def test_branches_meet_at_sizes_of_any_remainder(size: int) -> None:
    result = fold(randomised(_Joined()), torch.randn(2, 3, size, size))
    assert result.parity is None or result.parity.holds


def test_an_image_without_a_batch_is_used_whole() -> None:
    class Net(_Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.bn(self.conv(torch.tanh(x)).unsqueeze(0))
            return y

    result = fold(randomised(Net()), torch.randn(3, 40, 40))
    assert result.parity is None or result.parity.holds


def test_a_program_is_run_once_for_each_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice two batches: of the original, calls in place or not, and of the fold."""
    runs: list[object] = []

    def counted(program: object, *rest: Any) -> Any:
        runs.append(program)
        return run_as_written(program, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(parity, "run_as_written", counted)
    fold(randomised(_Net()), torch.randn(2, 3, 40, 40)).refuse_unsound()
    assert [runs.count(program) for program in dict.fromkeys(runs)] == [2, 2]
