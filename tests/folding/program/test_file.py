"""`.pt2` files: nothing in them is unpickled, nothing in ours names this machine."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

import bncheck
from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.folding.program.file import load_program, moved, save_program
from tests.folding.command import MODEL, SAMPLES
from tests.planted import healthy

torch.set_num_threads(1)


def _repacked(path: Path, out: Path, change: object) -> None:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))  # type: ignore[operator]


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


def test_sample_inputs_of_a_stranger_are_not_unpickled(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    payload = io.BytesIO()
    torch.save(_Payload(marker), payload)

    def poison(name: str, data: bytes) -> bytes:
        return payload.getvalue() if "sample_inputs" in name else data

    bad = tmp_path / "bad.pt2"
    _repacked(SAMPLES / "healthy.pt2", bad, poison)
    assert load_program(bad).graph is not None
    assert not marker.exists()


def test_a_weight_marked_as_a_pickle_is_refused(tmp_path: Path) -> None:
    def mark(name: str, data: bytes) -> bytes:
        return data.replace(b'"use_pickle": false', b'"use_pickle": true')

    bad = tmp_path / "bad.pt2"
    _repacked(SAMPLES / "healthy.pt2", bad, mark)
    with pytest.raises(bncheck.BncheckError, match="pickle"):
        load_program(bad)


def test_a_written_program_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    out = tmp_path / "net.pt2"
    assert run(["fold", str(SAMPLES / "healthy.pt"), *MODEL, "-o", str(out)]) == 0
    with zipfile.ZipFile(out) as archive:
        text = b"".join(archive.read(name) for name in archive.namelist())
    assert str(SAMPLES).encode() not in text
    assert b"nets.py" not in text


def test_device_moves_all_of_the_program() -> None:
    # "meta" stands for a device that this machine may not have.
    program = bncheck.fold(healthy(), (torch.zeros(2, 1, 8, 8),)).program
    assert moved(program, "cpu") is program
    there = moved(program, "meta")
    assert {tensor.device.type for tensor in there.state_dict.values()} == {"meta"}
    assert {name for name, _ in there.named_parameters()} == {
        n for n, _ in program.named_parameters()
    }


class _Scores(NamedTuple):
    scores: torch.Tensor
    features: torch.Tensor


class _Named(nn.Sequential):
    def forward(self, x: torch.Tensor) -> _Scores:
        y = super().forward(x)  # type: ignore[no-untyped-call]
        return _Scores(y, y + 1)


def test_a_class_without_a_name_for_files_is_said_in_one_sentence(tmp_path: Path) -> None:
    model = _Named(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    program = bncheck.fold(model, (torch.randn(2, 4),)).program
    with pytest.raises(BncheckError, match=r"_Scores has no registered name") as refused:
        save_program(program, tmp_path / "named.pt2")
    assert "serialized_type_name" in refused.value.hint
    assert not list(tmp_path.iterdir())
