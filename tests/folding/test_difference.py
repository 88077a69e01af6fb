"""A wrong fold is refused, whatever is wrong with it, and a right one is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.export import ExportedProgram

from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.folding.difference import INVENTED, Difference, gaps, relative_error
from bncheck.folding.onnx import fold as onnx_fold
from bncheck.folding.onnx import rewrite as onnx_rewrite
from bncheck.folding.program import fold as program_fold
from bncheck.folding.program import rewrite as program_rewrite
from bncheck.folding.program.rewrite import Rewritten
from bncheck.folding.result import Parity, RegionsParity, findings_of
from bncheck.folding.weights import Solution

torch.set_num_threads(1)

SAMPLES = Path(__file__).parent.parent.parent / "sample_models"
Numbers = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def _one_weight(name: str, numbers: Numbers) -> None:
    """The largest weight of a layer is off by one in a thousand."""
    if name == "conv2.weight":
        numbers.reshape(-1)[np.abs(numbers).argmax()] *= 1.001


def _one_shift(name: str, numbers: Numbers) -> None:
    """One channel lost its shift."""
    if name == "fc1.bias":
        numbers[1] = 0.0


DAMAGE = [_one_weight, _one_shift]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_wrong_program_is_refused(
    damage: Callable[[str, Numbers], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = program_rewrite.rewrite

    def wrong(program: ExportedProgram, solution: Solution) -> Rewritten:
        folded = right(program, solution)
        for name, tensor in folded.program.state_dict.items():
            damage(name, tensor.detach().numpy())
        return folded

    monkeypatch.setattr(program_fold, "rewrite", wrong)
    out = tmp_path / "net.pt2"
    assert run(["fold", str(SAMPLES / "healthy.pt2"), "-o", str(out), "--json"]) == 1
    assert '"rule": "BN404"' in (text := capsys.readouterr().out)
    assert text.partition('"layer": ')[2][:5] in ('"bn2"', '"bn4"')
    assert not out.exists()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_wrong_onnx_model_is_refused(
    damage: Callable[[str, Numbers], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = onnx_rewrite.rewrite

    def wrong(model: onnx.ModelProto, *arguments: Any) -> object:
        renamed = right(model, *arguments)
        for tensor in model.graph.initializer:
            numbers = arguments[-1].numbers(tensor).copy()
            damage(tensor.name, numbers)
            tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
        return renamed

    monkeypatch.setattr(onnx_fold, "rewrite", wrong)
    out = tmp_path / "net.onnx"
    assert run(["fold", str(SAMPLES / "healthy.onnx"), "-o", str(out), "--json"]) == 1
    assert '"rule": "BN404"' in (text := capsys.readouterr().out)
    assert "norm" in text.partition('"layer": ')[2][:40]
    assert not out.exists()


@pytest.mark.parametrize("shape", [(3, 700, 31, 37), (2, 3, 512, 200), (9,), (), (2, 0, 5), (0, 4)])
def test_channels_are_compared_some_at_a_time(shape: tuple[int, ...]) -> None:
    first, second = (np.random.default_rng(s).normal(size=shape) for s in (0, 1))
    axes = tuple(axis for axis in range(len(shape)) if axis != 1) if len(shape) > 1 else None
    expected = np.abs(first - second).max(axes, initial=0.0)
    np.testing.assert_array_equal(gaps(first, second), np.atleast_1d(expected))
    assert gaps(first, first).shape == np.shape(np.atleast_1d(expected))


def _outputs(seed: int, samples: int = 5) -> Numbers:
    array = np.random.default_rng(seed).normal(size=(samples, 4))
    array[:, 2] *= 1e-6 if samples < 6 else 1.0
    return array  # type: ignore[return-value]


def test_a_channel_that_looks_small_asks_for_more_samples() -> None:
    difference = Difference(1e-5)
    first = _outputs(0)
    difference.add(5, [first], [first + 1e-7], [first])
    assert difference.parity().excess > 1
    assert difference.needs_more
    more = _outputs(1, 64)
    difference.add(64, [more], [more + 1e-7], [more])
    assert difference.parity().holds
    assert not difference.needs_more


def test_one_ill_conditioned_channel_excuses_no_other() -> None:
    exact = _outputs(2, 64)
    own, fold = exact.copy(), exact.copy()
    own[:, 0] += 1e-4
    fold[:, 0] += 1e-4
    difference = Difference(1e-5)
    difference.add(64, [exact], [fold], [own])
    assert difference.parity().holds
    fold[:, 1] += 1e-4
    worse = Difference(1e-5)
    worse.add(64, [exact], [fold], [own])
    assert not worse.parity().holds


def test_the_excuse_has_an_end() -> None:
    exact = _outputs(3, 64)
    difference = Difference(1e-5)
    difference.add(64, [exact], [exact * 1.01], [exact * 1.01])
    assert not difference.parity().holds


def test_of_many_logits_some_are_small_by_chance() -> None:
    """EfficientNet-B0 with random weights: the response of one of 1,000 logits to rounding is 0."""
    exact = np.random.default_rng(4).normal(size=(2, 1000))
    exact[:, 0] *= 1e-3
    own, fold = exact + 2e-5, exact + 2e-5
    own[:, 1], fold[:, 1] = exact[:, 1], exact[:, 1] * (1 + 1e-4)
    usual, alone = Difference(1e-5, pooled=True), Difference(1e-5)
    for difference in (usual, alone):
        difference.add(2, [exact], [fold], [own])
    assert usual.parity().holds
    assert not alone.parity().holds
    fold[:, 2] += 1e-2
    usual.add(2, [exact], [fold], [own])
    assert not usual.parity().holds


def test_nan_on_one_side_only_does_not_match() -> None:
    array = np.ones((2, 3))
    array[0, 1] = np.nan
    assert relative_error(array, array) == 0.0
    assert relative_error(array, np.ones((2, 3))) == float("inf")
    assert relative_error(np.ones((0, 3)), np.ones((0, 3))) == 0.0


def test_a_wrong_weight_of_a_unit_that_never_opens_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    with torch.no_grad():
        model.get_submodule("1").bias[2] = -50.0  # type: ignore[operator]
    right = program_rewrite.rewrite

    def wrong(program: ExportedProgram, solution: Solution) -> Rewritten:
        folded = right(program, solution)
        folded.program.state_dict["0.weight"][2] *= 1.5
        return folded

    monkeypatch.setattr(program_fold, "rewrite", wrong)
    result = program_fold.fold(model, (torch.randn(2, 3, 8, 8),))
    assert result.parity is not None
    assert result.parity.max_relative_error < 1e-6
    assert not result.parity.holds
    assert result.parity.parts_at == "1"


class _Chaotic(nn.Module):
    """Behind the fold, a difference of rounding is multiplied by ten thousand."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.norm(self.conv(x)) * 1e5)


def test_a_right_fold_is_written_however_far_rounding_moves_the_outputs() -> None:
    torch.manual_seed(0)
    result = program_fold.fold(_Chaotic().eval(), (torch.randn(2, 3, 8, 8),))
    assert result.parity is not None
    assert result.parity.holds
    assert result.parity.max_relative_error > 1e-3
    assert result.parity.original_error > 1e-3
    assert result.parity.regions is not None
    assert result.parity.regions.max_relative_error < 1e-6


class _Steeper(nn.Module):
    """With one sample it amplifies rounding 300 times as much as with two."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        samples = torch.ones_like(x[:, 0, 0, 0]).sum()
        return torch.sin(self.norm(self.conv(x)) * 100 * (2 / samples) ** 8.2)


def test_what_rounding_moves_is_measured_on_the_inputs_where_the_fold_differs() -> None:
    torch.manual_seed(0)
    result = program_fold.fold(_Steeper().eval(), (torch.randn(2, 3, 8, 8),))
    assert result.parity is not None
    assert result.parity.holds
    assert result.parity.original_error > 1e-3


def _scale_off(weight: torch.Tensor, bias: torch.Tensor) -> None:
    weight[2] *= 1.001


def _shift_forgotten(weight: torch.Tensor, bias: torch.Tensor) -> None:
    bias[1] = 0


def _exchanged(weight: torch.Tensor, bias: torch.Tensor) -> None:
    weight[[0, 3]] = weight[[3, 0]]


@pytest.mark.parametrize("damage", [_scale_off, _shift_forgotten, _exchanged])
def test_a_miscompile_is_found_where_it_is_though_the_whole_shows_nothing(
    damage: Callable[[torch.Tensor, torch.Tensor], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a ReLU that never opens in these channels, and something that amplifies rounding."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    model = nn.Sequential(*layers, _Chaotic(4)).eval()
    with torch.no_grad():
        layers[1].bias.fill_(-50.0)
    right = program_rewrite.rewrite

    def wrong(program: ExportedProgram, solution: Solution) -> Rewritten:
        folded = right(program, solution)
        damage(*(folded.program.state_dict[f"0.{role}"].detach() for role in ("weight", "bias")))
        return folded

    monkeypatch.setattr(program_fold, "rewrite", wrong)
    result = program_fold.fold(model, (torch.randn(2, 3, 8, 8),))
    assert result.parity is not None
    assert not result.parity.holds
    assert result.parity.parts_at == "1"
    assert result.parity.regions is not None
    assert result.parity.regions.max_relative_error > result.parity.tolerance


@pytest.mark.parametrize("inside", [True, False])
def test_only_a_place_that_disagrees_is_to_be_reported(
    inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong number outside the regions is seen in the whole, and one inside in both."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
    right = program_rewrite.rewrite

    def wrong(program: ExportedProgram, solution: Solution) -> Rewritten:
        folded = right(program, solution)
        folded.program.state_dict["0.weight" if inside else "3.weight"][2] *= 1.5
        return folded

    monkeypatch.setattr(program_fold, "rewrite", wrong)
    result = program_fold.fold(model.eval(), (torch.randn(2, 3, 8, 8),))
    assert result.parity is not None
    assert not result.parity.holds
    (finding,) = result.report.findings
    assert finding.rule == "BN404"
    assert ("report it" in finding.fix) == inside
    assert (finding.layer == "1") == inside


class _Table(nn.Module):
    """Rows 0 to 3 of the table are those of inputs 5 to 8; fresh inputs are 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.table = nn.Embedding(4, 4)

    def forward(self, x: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.conv(x)) + self.table(row - 5)[..., None, None]
        return y


def test_a_program_that_takes_no_fresh_inputs_is_compared_on_the_examples() -> None:
    inputs = (torch.randn(4, 3, 8, 8), torch.tensor([5, 6, 7, 8]))
    result = program_fold.fold(_Table().eval(), inputs)
    assert result.parity is not None
    assert result.parity.batches[0] == 4
    assert result.parity.holds


def test_a_program_that_takes_none_of_the_inputs_is_not_compared() -> None:
    inputs = (torch.randn(4, 3, 8, 8), torch.tensor([5, 6, 7, 8]))
    program = torch.export.export(_Table().eval(), inputs)
    with pytest.raises(BncheckError, match="cannot be run for the comparison"):
        program_fold.fold(program, None)


@pytest.mark.parametrize("real_first", [False, True])
def test_inputs_of_the_user_are_judged_by_their_own_sizes(real_first: bool) -> None:
    """Invented inputs whose outputs are a hundred times as large hide no error on real data."""
    real = np.random.default_rng(5).normal(size=(64, 4))
    difference = Difference(5e-3)
    given = [(real, real + 0.1, 0), (real * 100, real * 100 + 0.1, INVENTED)]
    for exact, fold, kind in given if real_first else given[::-1]:
        difference.add(64, [exact], [fold], [exact], kind)
    assert not difference.parity().holds
    assert difference.first_bad() == 0
    assert difference.errors() == [difference.parity().max_relative_error]
    assert difference.errors()[0] > 0.01
    assert not difference.needs_more  # there is no more of it, and of the others all is well


def test_what_rounding_moves_on_invented_inputs_excuses_nothing_on_real_ones() -> None:
    exact = np.random.default_rng(6).normal(size=(64, 4))
    difference = Difference(1e-5)
    difference.add(64, [exact], [exact], [exact + 1e-4])
    difference.add(64, [exact], [exact + 1e-4], [exact], 0)
    assert not difference.parity().holds


def test_few_real_values_near_zero_are_measured_against_the_usual_ones() -> None:
    exact = _outputs(7)
    difference = Difference(1e-5)
    difference.add(5, [exact], [exact + 1e-7], [exact], 0)
    assert difference.parity().holds


def test_that_rounding_overflows_excuses_no_other_number() -> None:
    exact = np.random.default_rng(8).normal(size=(64, 4))
    moved, fold = exact.copy(), exact.copy()
    exact[0, 1] = fold[0, 1] = np.inf
    fold[5, 1] *= 1.5
    difference = Difference(1e-5, np.inf, pooled=True)
    difference.add(64, [exact], [fold], [moved])
    assert not difference.parity().holds


def test_errors_without_end_are_no_crash() -> None:
    decision = Parity(float("inf"), 0.1, 1e-5, (2,), excess=float("inf"),
                      regions=RegionsParity(1, 0.0))  # fmt: skip
    (finding,) = findings_of((), decision, fail_unfolded=False)
    assert "NaN or infinite" in finding.fix


def test_the_agreement_is_the_share_of_all_samples() -> None:
    difference = Difference(1e-5)
    scores = np.eye(2)[[0] * 99]
    difference.add(99, [scores], [scores], [scores])
    difference.add(1, [scores[:1]], [scores[:1, ::-1]], [scores[:1]])
    assert difference.parity().argmax_agreement == 0.99
