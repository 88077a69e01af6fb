"""Where a difference enters: the values of two programs, held together in float64."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bncheck
from bncheck.cli import run
from bncheck.reporting.clouds import drawn_columns
from bncheck.reporting.documents.parity import on_the_way, steps_table
from bncheck.runtime.file import open_onnx
from bncheck.runtime.weights import whole
from bncheck.shipping.axes import Axes, traced
from bncheck.shipping.onnx_side import OnnxSide
from bncheck.shipping.proof import LevelParity, Proof, prove
from bncheck.shipping.sides import TorchSide
from bncheck.shipping.trail import Step
from tests.folding.command import SAMPLES

torch.set_num_threads(1)


class Block(nn.Module):
    """A branch and, computed after it, a shortcut of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.short, self.bn3 = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y = torch.relu(y + self.bn3(self.short(x)))
        out: Tensor = self.fc(y.mean((2, 3)))
        return out


@pytest.fixture(scope="module")
def block() -> nn.Module:
    torch.manual_seed(3)
    model = Block()
    for norm in (model.bn1, model.bn2, model.bn3):
        nn.init.uniform_(norm.weight, 0.5, 2)
        norm.running_mean = torch.randn(8)
        norm.running_var = torch.rand(8) + 0.5
    return model.eval()


@pytest.fixture(scope="module")
def shipped(block: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trail") / "block.onnx"
    bncheck.export(block, torch.randn(2, 3, 8, 8), path)
    return path


def _side(model: nn.Module) -> TorchSide:
    return TorchSide(traced(model, (torch.randn(2, 3, 8, 8),), Axes()))


def test_a_shortcut_that_agrees_does_not_hide_where_a_branch_differs(block: nn.Module) -> None:
    broken = deepcopy(block)
    with torch.no_grad():
        broken.get_parameter("conv2.weight")[0, 0, 0, 0] += 1.0
    proof = prove(_side(block), _side(broken))
    assert proof.parts_at == "conv2"
    errors = {step.name: step.error for step in proof.steps}
    assert errors["bn1"] == errors["short"] == errors["bn3"] == 0
    assert errors["conv2"] > 0.01
    assert errors["fc"] > 1e-5


def test_what_a_fold_moved_is_held_against_the_batchnorm(block: nn.Module, shipped: Path) -> None:
    for first, second in (
        (_side(block), OnnxSide(whole(*open_onnx(shipped)))),
        (OnnxSide(whole(*open_onnx(shipped))), _side(block)),
    ):
        proof = prove(first, second)
        assert proof.holds
        assert proof.parts_at is None
        names = [step.name for step in proof.steps]
        assert {"bn1", "bn2", "bn3"} <= {*names}
        assert not {"conv1", "conv2", "short"} & {*names}
        assert max(step.error for step in proof.steps) < 1e-6


def test_other_statistics_enter_at_their_batchnorm(block: nn.Module, shipped: Path) -> None:
    broken = deepcopy(block)
    broken.get_buffer("bn2.running_mean").add_(0.5)
    proof = prove(_side(broken), OnnxSide(whole(*open_onnx(shipped))))
    assert proof.parts_at in ("bn2", "conv2")
    before = [s.error for s in proof.steps if s.name in ("bn1", "relu")]
    assert before
    assert max(before) < 1e-6


def test_text_shows_the_place_and_the_page_all_of_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pair = [str(SAMPLES / "one-layer-reset.pt"), str(SAMPLES / "healthy.pt")]
    model = ["--model", f"{SAMPLES / 'nets.py'}:DigitNet", "--input", "1,8,8"]
    page = tmp_path / "page.html"
    assert run(["compare", *pair, *model, "--report", str(page)]) == 1
    text = capsys.readouterr().out
    assert re.search(r"\nconv2 +0\nbn2 +0\.\d", text)
    assert "more (--verbose)" in text
    assert "\nfc2 " not in text
    assert "Where a difference enters" in page.read_text()
    assert "fc2" in page.read_text()


def test_the_chart_has_a_column_for_each_value_that_is_not_infinite() -> None:
    steps = (Step("a", 0.0), Step("b", 3e-8), Step("b", 2e-3, True), Step("c", float("inf"), True))
    proof = Proof((LevelParity("torch", None),), 1e-5, steps=steps)
    (figure,) = on_the_way(proof)
    assert (figure.names, figure.values) == (("a", "b"), (0.0, 2e-3))
    drawn = drawn_columns(figure)
    assert drawn.count("<rect") == 2
    assert '<rect class="tolerance"' in drawn
    (table,) = steps_table(proof)
    assert table.rows == (("a", "0"), ("b", "0.002"), ("c", "inf"))
    assert not list(on_the_way(Proof((), 1e-5, steps=(Step("a", 0.0),))))
    assert not list(steps_table(Proof((), 1e-5)))


class _Pooled(nn.Module):
    """A BatchNorm that stays becomes a convolution, which gets the name of the second one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.out = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.max_pool2d(self.bn(self.conv(x).relu()), 2)
        out: Tensor = self.out(pooled)
        return out


def test_a_new_call_may_have_the_name_of_the_last_of_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _Pooled().eval()
    nn.init.uniform_(model.bn.weight, -2, -0.5)
    model.bn.running_mean, model.bn.running_var = torch.randn(8), torch.rand(8) + 0.5
    done = bncheck.export(model, torch.randn(2, 3, 15, 15), tmp_path / "pooled.onnx")
    assert done.proof is not None
    assert done.proof.holds
