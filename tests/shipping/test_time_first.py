"""A batch that is not the first axis: `--input 20,N,8` marks it; `--static-batch` is of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.runtime.inputs import Input, asked_sizes
from bncheck.subject.inputs import InputShape, parse_input

torch.set_num_threads(1)
MODEL = ["--model", f"{__file__}:Steps"]


class Steps(nn.Module):
    """Twenty steps of eight numbers, time first, by a kernel of three steps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv1d(8, 6, 3), nn.BatchNorm1d(6)
        self.head = nn.Linear(18 * 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn(self.conv(x.permute(1, 2, 0)))
        z: torch.Tensor = self.head(y.flatten(1))
        return z


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("steps") / "steps.pt"
    torch.manual_seed(0)
    torch.save(Steps().state_dict(), path)
    return str(path)


def _report(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_marked_axis_is_the_batch(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "net.onnx")
    marked = [source, *MODEL, "--input", "20,N,8"]
    report = _report(capsys, "export", *marked, "-o", out)
    assert [port["shape"] for port in report["inputs"]] == [[20, "x_1", 8]]
    assert report["parity"][0]["batches"] == [1, 3]
    assert report["notes"] == []
    assert _report(capsys, "compare", source, out, *MODEL)["batches"] == [1, 3]
    again = str(tmp_path / "again.onnx")
    assert _report(capsys, "fold", out, "--input", "20,N,8", "-o", again)["summary"]["total"] == 0


def test_a_fold_is_proven_at_several_sizes_of_it(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("net.pt2", "net.safetensors"):
        marked = [source, *MODEL, "--input", "20,N,8", "-o", str(tmp_path / name)]
        report = _report(capsys, "fold", *marked)
        assert report["summary"] == {"total": 1, "folded": 1, "kept": 0}
        assert report["parity"]["batches"] == [2, 1]
    program = torch.export.load(tmp_path / "net.pt2")
    assert program.module()(torch.zeros(20, 5, 8)).shape == (5, 3)


def test_a_static_batch_is_of_the_marked_axis(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.onnx"
    words = [source, *MODEL, "--input", "x=20,N,8", "--static-batch", "-o", str(out)]
    assert _report(capsys, "export", *words)["notes"] == []
    (taken,) = onnx.load(out).graph.input
    assert [dim.dim_value for dim in taken.type.tensor_type.shape.dim] == [20, 1, 8]


def test_a_static_batch_says_what_became_1(tmp_path: Path) -> None:
    import bncheck

    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU()).eval()
    for shape, number in (((2, 5, 8), 1), ((2, 8), 0), ((2, 3, 5, 8), 0)):
        report = bncheck.export(
            model, torch.zeros(shape), tmp_path / "n.onnx", dynamic_batch=False, timing=False
        )
        assert len(report.notes) == number
        for note in report.notes:
            assert note.startswith("axis 0 of input is 1, as --static-batch")
            assert "mark the batch with N, as in --input 20,N,8" in note


def test_shapes_with_a_mark() -> None:
    assert parse_input("x=20,N,8:int64") == InputShape("x", (20, 8), "int64", 1)
    assert parse_input("20xnx8") == parse_input("20,N,8") == InputShape(None, (20, 8), None, 1)
    assert parse_input("3x32x32") == InputShape(None, (3, 32, 32), None)
    assert parse_input("20,N,8").whole(2) == (20, 2, 8)
    assert parse_input("20,8").whole(2) == (2, 20, 8)
    assert parse_input("20,N,8").without_batch(("t", "n", 8)) == ("t", 8)
    with pytest.raises(BncheckError, match="marks the batch twice"):
        parse_input("N,20,N")
    with pytest.raises(BncheckError, match="is not a shape"):
        parse_input("20,*,8")


def test_an_onnx_model_takes_the_mark() -> None:
    given = [Input("x", torch.zeros(1).numpy().dtype, ("t", "n", 8))]
    assert asked_sizes(given, [parse_input("20,N,8")]) == {"t": 20}
    with pytest.raises(BncheckError, match="gives x the sizes"):
        asked_sizes(given, [parse_input("20,N,9")])


def test_a_part_has_a_batch_of_its_own(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marked = [source, *MODEL, "--input", "20,N,8"]
    for command, name in (("export", "part.onnx"), ("fold", "part.safetensors")):
        report = _report(capsys, command, *marked, "--part", "conv", "-o", str(tmp_path / name))
        assert "of a part's inputs the first axis is taken for it" in " ".join(report["notes"])
