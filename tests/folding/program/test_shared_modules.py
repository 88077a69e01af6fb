"""Calls of one module that get the same numbers share them, in a program and in a state dict."""

from __future__ import annotations

import copy
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import bncheck
from bncheck.cli import run
from bncheck.folding.fold import FoldOptions
from bncheck.folding.planner.families import Norms
from bncheck.folding.program.fold import fold
from bncheck.folding.program.holding import fold_held
from bncheck.folding.program.state_file import save_folded
from tests.folding.patterns.building import randomised

IMAGES = (torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8))


class Siamese(nn.Module):
    """One encoder for both inputs; `second` is another norm behind its last layer, or the same."""

    def __init__(self, second: bool = False) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.fc, self.last = nn.Linear(4, 5), nn.BatchNorm1d(5)
        self.second = nn.BatchNorm1d(5) if second else None

    def encode(self, x: Tensor, last: nn.Module) -> Tensor:
        y: Tensor = last(self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3))))
        return y

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        other = self.last if self.second is None else self.second
        return torch.cat([self.encode(x, self.last), self.encode(y, other)], 1)


def made(second: bool = False) -> Siamese:
    torch.manual_seed(0)
    model = randomised(Siamese(second))
    assert isinstance(model, Siamese)
    return model.eval()


def test_a_program_holds_them_once_under_their_old_names() -> None:
    result = bncheck.fold(made(), IMAGES)
    assert not result.report.kept
    assert set(result.program.state_dict) == {"conv.weight", "conv.bias", "fc.weight", "fc.bias"}


def test_a_state_dict_holds_the_fold(tmp_path: Path) -> None:
    model, path = made(), tmp_path / "folded.safetensors"
    source = tmp_path / "model.pt"
    torch.save(model.state_dict(), source)
    save_folded(fold(model, IMAGES), model, IMAGES, path, source)
    folded = bncheck.load_folded(copy.deepcopy(model), path)
    assert isinstance(folded, Siamese)
    assert isinstance(folded.bn, nn.Identity)
    assert isinstance(folded.last, nn.Identity)
    torch.testing.assert_close(folded(*IMAGES), model(*IMAGES), rtol=1e-4, atol=1e-5)


def test_different_numbers_are_not_shared() -> None:
    """The program has two; a state dict has room for one, and keeps the norms that need two."""
    model = made(second=True)
    names = set(bncheck.fold(model, IMAGES).program.state_dict)
    assert names == {"conv.weight", "conv.bias", "fc.weight", "fc.bias", "fc.weight_1", "fc.bias_1"}
    held = fold_held(model, IMAGES, FoldOptions())
    assert {norm.name for norm in held.report.kept} == {"last", "second"}


def test_of_a_module_all_calls_go_or_none() -> None:
    """Nothing stands before or behind the second one that could take it."""

    class Twice(Siamese):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            once, twice = self.bn(self.conv(x)), self.bn(self.conv(y).sigmoid())
            return torch.add(once, twice.sigmoid())

    torch.manual_seed(0)
    held = fold_held(randomised(Twice()).eval(), IMAGES, FoldOptions())
    reasons = {norm.name: norm.reason for norm in held.report.kept}
    assert "not all calls of bn can be folded" in reasons["bn"]


class Scaled(Siamese):
    """Between the layer and the norm lie calls that no module makes."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z = self.bn(self.conv(x + y) * 0.5 + 0.1)
        return self.last(self.fc(z.relu().mean((2, 3))))  # type: ignore[no-any-return]


def test_what_takes_calls_of_the_forward_with_it_stays() -> None:
    torch.manual_seed(0)
    model = randomised(Scaled()).eval()
    held = fold_held(model, IMAGES, FoldOptions())
    (kept,) = held.report.kept
    assert kept.name == "bn"
    assert "(mul) in the model's forward goes" in kept.reason
    assert not bncheck.fold(model, IMAGES).report.kept


class Layers(nn.Module):
    """One LayerNorm for both inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([self.fc(self.norm(x)), self.fc(self.norm(y))], 1)


def test_a_shared_layer_norm_loses_its_affine(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, path = randomised(Layers()).eval(), tmp_path / "folded.safetensors"
    inputs = (torch.randn(2, 6), torch.randn(2, 6))
    result = fold(model, inputs, FoldOptions(norms=Norms.ALL))
    source = tmp_path / "model.pt"
    torch.save(model.state_dict(), source)
    save_folded(result, model, inputs, path, source)
    folded = bncheck.load_folded(copy.deepcopy(model), path)
    assert set(folded.state_dict()) == {"fc.weight", "fc.bias"}
    torch.testing.assert_close(folded(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("names", ["one", "two"])
def test_an_onnx_file_holds_them_once(names: str, tmp_path: Path) -> None:
    """A head that runs on five sizes would be stored five times."""
    stored = {"w": torch.randn(4, 3, 3, 3), **{n: torch.rand(4) + 0.5 for n in "abcd"}}
    nodes: list[onnx.NodeProto] = []
    for number in range(5):
        named = {"name": f"conv{number}"} if names == "two" else {}
        nodes.append(helper.make_node("Conv", [f"x{number}", "w"], [f"c{number}"], **named))
        ends = ([f"c{number}", *"abcd"], [f"y{number}"])
        nodes.append(helper.make_node("BatchNormalization", *ends))
    inputs, outputs = (
        [helper.make_tensor_value_info(f"{name}{n}", TensorProto.FLOAT, shape) for n in range(5)]
        for name, shape in (("x", [1, 3, 8, 8]), ("y", [1, 4, 6, 6]))
    )
    initializers = [numpy_helper.from_array(v.numpy(), k) for k, v in stored.items()]
    graph = helper.make_graph(nodes, "heads", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path, out = tmp_path / "net.onnx", tmp_path / "folded.onnx"
    onnx.save(model, path)
    assert run(["fold", str(path), "-o", str(out)]) == 0
    assert sorted(list(t.dims) for t in onnx.load(out).graph.initializer) == [[4], [4, 3, 3, 3]]


class TwoInputs(nn.Module):
    """An encoder that both inputs go through, and a norm whose second call has no place to go."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.mix, self.last = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        both = self.bn(self.conv(x)) - self.bn(self.conv(y))
        z: Tensor = self.last(torch.sigmoid(self.last(self.mix(both.abs()))))
        return z


def test_people_count_modules_and_read_of_calls_where_these_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = randomised(TwoInputs())
    result = bncheck.fold(model, IMAGES)
    assert result.to_dict()["modules"] == {"BatchNorm": {"total": 2, "folded": 1, "kept": 1}}
    assert result.to_dict()["summary"] == {"total": 4, "folded": 3, "kept": 1}
    assert [d.layer for d in result.batchnorms] == ["bn", "bn", "last", "last"]
    torch.save(model.state_dict(), tmp_path / "net.pt")
    given = ["--model", f"{__name__}:TwoInputs", "--input", "3,8,8", "--input", "3,8,8"]
    given += ["--dry-run"]
    assert run(["fold", str(tmp_path / "net.pt"), *given]) == 0
    text = capsys.readouterr().out
    assert "1 of 2 BatchNorms (3 of 4 calls) can be folded" in text
    assert "kept     last (2)" in text
    assert [line.split() for line in text.splitlines()[-2:]] == [["bn", "conv"], ["last", "mix"]]
    assert run(["fold", str(tmp_path / "net.pt"), *given, "--keep", "bn"]) == 0
    assert "0 of 2 BatchNorms (1 of 4 calls)" in capsys.readouterr().out  # keeps both calls
