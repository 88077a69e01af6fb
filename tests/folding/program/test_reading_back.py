"""What is written is read back, and becomes the file only if it is what was proven."""

from __future__ import annotations

import io
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.export import ExportedProgram

import bncheck
from bncheck.cli import run
from bncheck.folding.program import file
from bncheck.folding.program.reading_back import is_same_program
from bncheck.folding.program.rebuilding import copied, copied_tensor, rebuilt
from bncheck.folding.program.state_file import _holds
from tests.faulty import faulty
from tests.planted import SAMPLES

IMAGES = (torch.zeros(2, 3, 8, 8),)


class _Faulty(file._Enduring):
    def write(self, data: Any) -> int:
        return super().write(faulty(data))


class _Plain(nn.Module):
    """Two names of one buffer, and numbers that compare as equal to others or to none."""

    k: torch.Tensor
    again: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)
        self.register_buffer("k", torch.tensor([1.0, 0.0, float("nan"), 2.0]).reshape(4, 1, 1))
        self.register_buffer("again", self.k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.bn(self.conv(x)) + torch.nan_to_num(self.k + self.again)
        return y


class _Branches(_Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        branches = (lambda t: t + 1, lambda t: t * 2)
        z: torch.Tensor = torch.cond(y.sum() > 0, *branches, (y,))
        return z


class _Narrow(_Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = self.conv(x)
        return torch.nan_to_num(self.bn(y.float()) * self.k)


class _Recurrent(nn.Module):
    """torch adds results that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.lstm = nn.BatchNorm1d(3), nn.LSTM(64, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.lstm(self.bn(x.flatten(2)))[0]
        return y


def _folded(model: nn.Module) -> ExportedProgram:
    torch.manual_seed(0)
    program: ExportedProgram = bncheck.fold(model.eval(), IMAGES).program
    return program


def _read(program: ExportedProgram) -> ExportedProgram:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return torch.export.load(buffer)


@pytest.mark.parametrize("make", [_Plain, _Branches, _Narrow, _Recurrent])
def test_what_is_read_back_is_the_same(make: type[nn.Module]) -> None:
    program = _folded(make())
    assert is_same_program(_read(program), program)


def _with_number(program: ExportedProgram, place: int, number: float) -> ExportedProgram:
    state = {name: copied_tensor(value) for name, value in program.state_dict.items()}
    state["k"].view(-1)[place] = number
    return rebuilt(program, copied(program.graph), state)


def test_a_bit_of_a_number_is_noticed() -> None:
    """-0 equals 0, and NaN does not equal itself."""
    program = _folded(_Plain())
    assert is_same_program(_with_number(program, 2, float("nan")), program)
    for place, number in ((1, -0.0), (3, 2.0000002), (2, 0.0)):
        assert not is_same_program(_with_number(program, place, number), program)


@pytest.mark.parametrize("change", ["stride", "operator", "order", "branch"])
def test_another_call_is_noticed(change: str) -> None:
    program = _folded(_Branches())
    other = _read(program)
    nodes = {node.name: node for node in other.graph.nodes}
    if change == "stride":
        nodes["conv2d"].args = (*nodes["conv2d"].args[:3], [1, 1], *nodes["conv2d"].args[4:])
    elif change == "operator":
        nodes["add"].target = torch.ops.aten.sub.Tensor
    elif change == "order":
        nodes["add_1"].args = nodes["add_1"].args[::-1]
    else:
        inner: Any = other.graph_module.true_graph_0
        (call,) = (node for node in inner.graph.nodes if node.op == "call_function")
        call.args = (call.args[0], 2)
    assert not is_same_program(other, program)


def test_a_disk_that_loses_bits_leaves_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, path = _folded(_Plain()), tmp_path / "net.pt2"
    file.save_program(program, path)
    before = path.read_bytes()
    monkeypatch.setattr(file, "_Enduring", _Faulty)
    with pytest.raises(bncheck.BncheckError, match="does not read back as what was proven"):
        file.save_program(program, path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["net.pt2"]


def test_a_state_file_is_held_against_what_it_should_hold(tmp_path: Path) -> None:
    path, tensors = tmp_path / "net.safetensors", {"k": torch.tensor([1.0, -0.0, float("nan")])}
    save_file(tensors, path, {"of": "tests"})
    assert _holds(path, tensors, {"of": "tests"})
    assert not _holds(path, tensors, {"of": "others"})
    for others in ({}, {"k": torch.tensor([1.0, 0.0, float("nan")])}, {"k": tensors["k"].double()}):
        assert not _holds(path, others, {"of": "tests"})


@pytest.mark.parametrize("name", ["net.pt2", "net.safetensors"])
def test_a_full_disk_is_one_line(name: str, tmp_path: Path) -> None:
    words = ["fold", str(SAMPLES / "healthy.pt"), "--model", f"{SAMPLES / 'nets.py'}:DigitNet",
             "--input", "1,8,8", "-o", str(tmp_path / name)]  # fmt: skip
    code, said = _with_small_files(words)
    assert code == 2
    assert "cannot be written (" in said
    assert "File too large" in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def _with_small_files(words: list[str]) -> tuple[int, str]:
    """In a fork, which torch's writer would end, and whose files may not be large."""
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if not pid:
            os.dup2(said.fileno(), 2)
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            code = run(words)
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(pid, 0)
        said.seek(0)
        return os.waitstatus_to_exitcode(status), said.read().decode()
