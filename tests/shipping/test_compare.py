"""Two files, one function: every pair of kinds, and what differs."""

from __future__ import annotations

import itertools
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch.export import ExportedProgram

import bncheck
from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.shipping.axes import Axes, traced
from bncheck.shipping.onnx_side import OnnxSide
from bncheck.shipping.proof import prove
from bncheck.shipping.sides import TorchSide
from bncheck.shipping.torch_to_onnx import to_onnx
from tests.folding.command import DATA, SAMPLES
from tests.shipping.nets import IMAGES, Unit, made

torch.set_num_threads(1)

KINDS = ("healthy.pt", "healthy.pt2", "healthy.onnx")
MODEL = ["--model", f"{SAMPLES / 'nets.py'}:DigitNet"]


@pytest.mark.parametrize(("first", "second"), list(itertools.product(KINDS, KINDS)))
def test_every_pair_of_kinds(first: str, second: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = [*(MODEL if "pt" in (first[-2:], second[-2:]) else [])]
    more += ["--input", "1,8,8"] if first == second == "healthy.pt" else []
    arguments = [str(SAMPLES / first), str(SAMPLES / second), *more, "--json"]
    assert run(["compare", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "bncheck.compare/1"
    assert report["equal"] is True
    assert report["max_relative_error"] <= report["tolerance"] == 1e-5
    assert report["first_difference"] is None
    assert report["batches"][:2] == [1, 3]


def test_other_weights_differ_and_the_layer_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pair = [str(SAMPLES / "one-layer-reset.pt"), str(SAMPLES / "healthy.pt")]
    assert run(["compare", *pair, *MODEL, "--input", "1,8,8", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["equal"] is False
    assert report["first_difference"] == "bn2"
    assert run(["compare", *pair, *MODEL, "--input", "1,8,8", "--quiet"]) == 1
    assert "BN404 bn2" in capsys.readouterr().out


BRANCHES = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 10)
    def forward(self, x):
        y = self.head(self.backbone(x).mean((2, 3)))
        return y * 2 if y.sum() > 0 else y
"""


@pytest.fixture
def branching(tmp_path: Path) -> list[str]:
    """A checkpoint whose model is not one graph, with the options that name it."""
    (tmp_path / "branching.py").write_text(BRANCHES)
    scope: dict[str, Any] = {}
    exec(BRANCHES, scope)
    torch.manual_seed(0)
    torch.save(scope["Net"]().state_dict(), tmp_path / "branching.pt")
    return [str(tmp_path / "branching.pt"), "--model", f"{tmp_path / 'branching.py'}:Net"]


def test_a_part_is_compared_with_its_export(
    branching: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, *model = branching
    out, part = str(tmp_path / "part.onnx"), ["--part", "backbone"]
    assert run(["export", file, *model, *part, "--input", "1,8,8", "--force", "-o", out]) == 0
    for more in ([], ["--input", "1,8,8"], DATA):
        assert run(["compare", file, out, *model, *part, *more]) == 0
    capsys.readouterr()
    assert run(["compare", file, out, *model, "--part", "neck"]) == 2
    assert "those on top are backbone, head" in capsys.readouterr().err
    assert run(["compare", out, out, *part]) == 2
    assert "--part names a submodule of a model" in capsys.readouterr().err


def test_inspect_says_nothing_of_the_graph_that_torch_fails_to_make(
    branching: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", *branching, *DATA]) in (0, 1)
    assert "torch.ops" not in capfd.readouterr().err


@pytest.mark.parametrize("names", [("healthy.pt2", "healthy.onnx"), ("healthy.pt", "healthy.onnx")])
def test_data_are_compared_on(names: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(SAMPLES / name) for name in names]
    assert run(["compare", *paths, *MODEL, *DATA, "--json"]) == 0
    assert max(json.loads(capsys.readouterr().out)["batches"]) >= 60


def test_what_cannot_be_compared_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.pt2"
    torch.export.save(torch.export.export(made(Unit), (IMAGES,)), other)
    healthy = str(SAMPLES / "healthy.onnx")
    for arguments, words in (
        ([healthy, str(other)], "where the other takes"),
        ([healthy, str(SAMPLES / "healthy.pt")], "needs its model"),
        ([str(SAMPLES / "healthy.pt"), str(SAMPLES / "stale.pt"), *MODEL], "--input or --data"),
        ([healthy, str(tmp_path / "missing.onnx")], "missing.onnx"),
    ):
        assert run(["compare", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1
        assert words in captured.err


@pytest.mark.parametrize("names", [("healthy.pt2", "healthy.onnx"), ("healthy.onnx",) * 2])
def test_without_onnxruntime_an_onnx_file_is_not_called_equal(
    names: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as where it is not installed
    assert run(["compare", *(str(SAMPLES / name) for name in names)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "comparing an ONNX model needs onnxruntime, which is not installed" in captured.err
    assert "[export]'" in captured.err
    assert run(["compare", *[str(SAMPLES / "healthy.pt2")] * 2]) == 0


def test_in_python() -> None:
    report = bncheck.compare(SAMPLES / "healthy.pt2", SAMPLES / "healthy.onnx")
    assert report.equal
    with pytest.raises(BncheckError, match="needs its model"):
        bncheck.compare(SAMPLES / "healthy.pt2", SAMPLES / "healthy.pt")


def test_two_files_in_a_module_that_is_given(tmp_path: Path) -> None:
    """Each is loaded into a copy: in one and the same module, any two files are equal."""
    model = made(Unit)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    paths = [tmp_path / "one.pt", tmp_path / "other.pt"]
    for path, factor in zip(paths, (0.5, 2.0), strict=True):
        torch.save({name: factor * tensor for name, tensor in before.items()}, path)
    given: dict[str, Any] = {"model": model, "inputs": ["3,8,8"]}
    assert not bncheck.compare(*paths, **given).equal
    assert bncheck.compare(paths[0], paths[0], **given).equal
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def test_a_folded_state_dict_is_compared_with_what_it_was_folded_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folded, model = tmp_path / "folded.safetensors", [*MODEL, "--input", "1,8,8"]
    healthy = str(SAMPLES / "healthy.pt")
    assert run(["fold", healthy, *model, "-o", str(folded)]) == 0
    for pair in ([healthy, str(folded)], [str(folded), str(SAMPLES / "healthy.onnx")]):
        assert run(["compare", *pair, *model]) == 0
    assert run(["compare", str(SAMPLES / "stale.pt"), str(folded), *model]) == 1
    capsys.readouterr()
    for command, ending in (("export", "onnx"), ("fold", "pt2")):
        assert run([command, str(folded), *model, "-o", str(tmp_path / f"x.{ending}")]) == 2
        said = capsys.readouterr().err
        assert "is what `bncheck fold` made" in said
        assert said.count("\n") == 1


@cache
def _converted() -> tuple[ExportedProgram, bytes]:
    program = traced(made(Unit), (IMAGES,), Axes())
    return program, to_onnx(program, ["x"], ["y"]).model.SerializeToString()


def _model() -> tuple[TorchSide, onnx.ModelProto]:
    program, model = _converted()
    return TorchSide(program), onnx.ModelProto.FromString(model)


@pytest.mark.parametrize(
    ("tensor", "part"), [("conv.weight", "conv"), ("bn.running_mean", "bn"), ("head.bias", "head")]
)
def test_one_wrong_number_is_found_and_placed(tensor: str, part: str) -> None:
    side, model = _model()
    assert prove(side, OnnxSide(model)).holds
    stored = next(t for t in model.graph.initializer if t.name == tensor)
    numbers = onnx.numpy_helper.to_array(stored).copy()
    numbers.flat[0] += 0.01
    stored.CopyFrom(onnx.numpy_helper.from_array(numbers, tensor))
    proof = prove(side, OnnxSide(model))
    assert not proof.holds
    assert proof.worst > 1e-4
    # A BatchNorm's value has another name in ONNX than in torch, so the next one is named.
    assert proof.parts_at in (part, {"bn": "relu"}.get(part))


def test_what_only_negative_inputs_show_is_found() -> None:
    side, model = _model()
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Abs"
    assert not prove(side, OnnxSide(model)).holds


def test_float64_files_are_held_to_their_own_tolerance() -> None:
    program = traced(made(Unit).double(), (IMAGES.double(),), Axes())
    proof = prove(TorchSide(program), TorchSide(program))
    assert proof.tolerance == 1e-12
    assert proof.holds
    assert np.isfinite(proof.worst)


def _of_microsoft(path: Path, factor: float) -> Path:
    """What onnxruntime runs, and nothing here computes in float64."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["h"]),
        helper.make_node("QuickGelu", ["h"], ["y"], domain="com.microsoft", alpha=1.702),
    ]
    made = [helper.make_tensor_value_info(name, 1, ["N", 5]) for name in "xy"]
    weight = onnx.numpy_helper.from_array(np.full(5, factor, np.float32), "w")
    graph = helper.make_graph(nodes, "graph", made[:1], made[1:], [weight])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def test_what_only_a_runtime_knows_is_compared_as_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = _of_microsoft(tmp_path / "a.onnx", 2.0), _of_microsoft(tmp_path / "b.onnx", 2.001)
    assert run(["compare", str(one), str(one), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["equal"] is True
    assert {level["reference"] for level in report["levels"]} == {"as written"}
    assert run(["compare", str(one), str(other)]) == 1
    assert "against the original as it is written" in " ".join(capsys.readouterr().out.split())


def test_the_reference_is_run_at_every_batch_with_its_state(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Squeeze", ["s", "zero"], ["h"]),
        helper.make_node("Concat", ["x", "h"], ["y"], axis=1),
    ]
    x, y = (helper.make_tensor_value_info(n, 1, ["N", size]) for n, size in (("x", 5), ("y", 10)))
    state = helper.make_tensor_value_info("s", 1, [1, "M", 5])
    zero = onnx.numpy_helper.from_array(np.array([0]), "zero")
    graph = helper.make_graph(nodes, "graph", [x, state], [y], [zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    side = OnnxSide(model)
    assert side.shapes(3, 2) == [(3, 5), (1, 3, 5)]
    assert prove(side, OnnxSide(model)).measured[0].batches == (1, 3)
