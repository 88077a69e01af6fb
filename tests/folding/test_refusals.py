"""What `bncheck fold` refuses: a line, and no file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from bncheck.cli import run
from tests.folding.command import DATA, MODEL, SAMPLES, SMALL, USER, shaped
from tests.planted import healthy

torch.set_num_threads(1)


def test_a_file_without_running_statistics_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {k: v for k, v in healthy().state_dict().items() if not k.startswith("bn2.running")}
    torch.save(state, tmp_path / "lacks.pt")
    out = tmp_path / "net.pt2"
    assert run(["fold", str(tmp_path / "lacks.pt"), *MODEL, "-o", str(out)]) == 2
    assert "BN104 missing-statistics: bn2:" in capsys.readouterr().err
    assert not out.exists()


def test_corrupt_statistics_in_a_program_and_in_onnx_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = healthy()
    assert model.bn3.running_var is not None
    model.bn3.running_var[1] = -1
    program = torch.export.export(model, (torch.zeros(2, 1, 8, 8),))
    torch.export.save(program, tmp_path / "bad.pt2")
    onnx_model = onnx.load(SAMPLES / "healthy.onnx")
    (norm,) = [n for n in onnx_model.graph.node if n.op_type == "BatchNormalization"][:1]
    (var,) = [t for t in onnx_model.graph.initializer if t.name == norm.input[4]]
    var.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(var), var.name))
    onnx.save(onnx_model, tmp_path / "bad.onnx")
    for name in ("bad.pt2", "bad.onnx"):
        out = tmp_path / f"out{Path(name).suffix}"
        assert run(["fold", str(tmp_path / name), "-o", str(out)]) == 2
        assert "BN103 negative-variance" in capsys.readouterr().err
        assert not out.exists()


def test_the_input_itself_is_not_an_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "net.pt2"
    copy.write_bytes((SAMPLES / "healthy.pt2").read_bytes())
    assert run(["fold", str(copy), "-o", str(copy)]) == 2
    assert "is also an input" in capsys.readouterr().err
    assert copy.read_bytes() == (SAMPLES / "healthy.pt2").read_bytes()


def test_a_folder_that_cannot_be_written_to_is_found_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    monkeypatch.setattr("bncheck.reading.opening.open_checkpoint", None)  # no work is done
    assert run(["fold", str(SAMPLES / "healthy.pt2"), "-o", str(tmp_path / "net.pt2")]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_a_tolerance_that_nothing_meets_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.pt2"
    source = str(SAMPLES / "healthy.pt2")
    assert run(["fold", source, "-o", str(out), "--tolerance", "1e-12"]) == 1
    assert "nothing was written: beyond the tolerance" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["healthy.pt", "-o", "OUT.pt2"], "--model"),
        (["healthy.pt", *MODEL[:2], "-o", "OUT.pt2"], "--input"),
        (["healthy.pt", *MODEL[:3], "3,8,8", "-o", "OUT.pt2"], "nets.py:23"),
        (["healthy.pt", *MODEL[:3], "3*8", "-o", "OUT.pt2"], "is not a shape"),
        (["healthy.pt2"], "-o is missing"),
        (["healthy.pt", *MODEL, *DATA, "-o", "OUT.pt2"], "exclude each other"),
        (["healthy.pt", *MODEL, "--device", "cuda:99", "-o", "OUT.pt2"], "folding runs on the CPU"),
        (["healthy.pt", *MODEL[:3], "y=1,8,8", "-o", "OUT.pt2"], "it takes x"),
        (["healthy.pt", *MODEL, "--input", "2", "-o", "OUT.pt2"], "does not fit the model's"),
        (["healthy.pt", *MODEL[:3], "1,8,8:int7", "-o", "OUT.pt2"], "unknown dtype 'int7'"),
        (["healthy.pt", *MODEL[:2], "--data", "none.npz", "-o", "OUT.pt2"], "none.npz: does not"),
        (["healthy.pt", *MODEL[:2], "--data", "WIDE.npz", "-o", "OUT.pt2"], "rejects batch 0"),
        (["healthy.pt", "--model", "none.py:Net", *MODEL[2:], "-o", "OUT.pt2"], "no file"),
        (["healthy.pt", "--model", "none.net:Net", *MODEL[2:], "-o", "OUT.pt2"], "no module"),
        (["healthy.pt", "--model", "USER.py:Branches", *SMALL, "-o", "OUT.pt2"], "branches on the"),
        (["healthy.pt", "--model", "USER.py:Branches", *SMALL, "-o", "OUT.pt2"], "USER.py:10"),
        (["healthy.pt", "--model", "USER.py:Exits", *SMALL, "-o", "OUT.pt2"], "sys.exit(0)"),
        (["healthy.pt", "--model", "USER.py:Other", *SMALL, "-o", "OUT.pt2"], "lacks"),
        (["healthy.pt", "--model", "USER.py:Keyword", *SMALL, "-o", "OUT.pt2"], "by keyword only"),
        (["nan.pt", *MODEL, "-o", "OUT.pt2"], "BN102"),
        (["negative-variance.pt", *MODEL, "-o", "OUT.pt2"], "BN103"),
        (["healthy-module.pt", "--input", "1,8,8", "-o", "OUT.pt2"], "or --trust"),
        (["healthy-torchscript.pt", "-o", "OUT.pt2"], "is TorchScript"),
        (["healthy.pt2", "--input", "1,8,8", "-o", "OUT.pt2"], "leave --input out"),
        (["healthy.pt2", "--key", "ema", "-o", "OUT.pt2"], "under the key"),
        (
            ["healthy.onnx", "--data", "WIDE.npz", "-o", "OUT.onnx"],
            "is ?x1x8x8, and the data gives",
        ),
        (["healthy.pt2", "--freeze-inputs", "-o", "OUT.pt2"], "is for ONNX models"),
        (["healthy.pt2", "-o", "OUT.pt2", "--report", "json:OUT.pt2"], "would be written twice"),
        (["nowhere.pt2", "-o", "OUT.pt2"], "nowhere.pt2"),
        (["nets.py", "-o", "OUT.pt2"], "nets.py"),
        (["healthy.pt2", "--keep", "stem.*", "-o", "OUT.pt2"], "they are bn1, bn2, bn3, bn4"),
        (["healthy.onnx", "--keep", "stem.*", "-o", "OUT.onnx"], "--keep 'stem.*' matches no"),
        (["healthy.pt2", "-o", "OUT.txt"], "does not end in .pt2; name"),
        (["healthy.pt", *MODEL, "-o", "OUT.txt"], "does not end in .pt2 or .safetensors; name"),
        (["healthy.onnx", "-o", "OUT.txt"], "does not end in .onnx; name"),
        (["healthy.onnx", "-o", ""], "the word after -o is empty"),
        (["healthy.pt2", "-o", "nowhere/OUT.pt2"], "does not exist"),
        (["healthy.pt2", "-o", "OUT.safetensors"], "does not name its modules"),
        (["healthy.onnx", "-o", "OUT.pt2"], "an ONNX model"),
        (["healthy.pt2", "-o", "OUT.onnx"], "for ONNX models only"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    given.mkdir()
    out.mkdir()
    (given / "user.py").write_text(USER)
    np.savez(given / "wide.npz", x=np.zeros((4, 3, 8, 8), np.float32))
    places = {"OUT": out / "out", "USER": given / "user", "WIDE": given / "wide"}
    for word, place in places.items():
        arguments = [argument.replace(word, str(place)) for argument in arguments]
    assert run(["fold", str(SAMPLES / arguments[0]), *arguments[1:]]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert words.replace("USER", "user") in captured.err
    assert list(out.iterdir()) == []


def test_what_a_state_dict_cannot_hold_stays_and_the_rest_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fc` would need weights of its own for each call; `last` is called once."""
    assert run([*shaped(tmp_path, "TwiceAndOnce", "safetensors"), "--json"]) == 0
    found = {d["name"]: d for d in json.loads(capsys.readouterr().out)["batchnorms"]}
    assert {name: d["status"] for name, d in found.items()} == {
        "bn": "kept", "bn2": "kept", "bn3": "folded",
    }  # fmt: skip
    assert "fc is called more than once" in found["bn"]["reason"]
    assert "write a .pt2, which can hold it" in found["bn"]["reason"]
    assert (tmp_path / "out.safetensors").exists()


def test_a_computed_weight_has_no_place_for_the_shift_in_a_state_dict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ([], ["--dry-run"]):
        assert run([*shaped(tmp_path, "Mixed", "safetensors"), "--json", *more]) == 0
        (first, second) = json.loads(capsys.readouterr().out)["batchnorms"]
        assert (first["status"], second["status"]) == ("kept", "folded")
        assert "no module of the model can hold mixture.bias" in first["reason"]
