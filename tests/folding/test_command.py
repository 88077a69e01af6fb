"""`bncheck fold` on the sample models: what it prints, writes and refuses."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch

import bncheck
from bncheck.cli import run
from bncheck.folding.program_file import load_program
from tests.planted import DigitNet

torch.set_num_threads(1)

SAMPLES = Path(__file__).parent.parent.parent / "sample_models"
MODEL = ["--model", f"{SAMPLES / 'nets.py'}:DigitNet", "--input", "1,8,8"]


def _healthy() -> DigitNet:
    tensors = bncheck.open_checkpoint(SAMPLES / "healthy.pt").tensors
    model = DigitNet()
    model.load_state_dict({name: torch.from_numpy(tensors[name].copy()) for name in tensors})
    model.eval()
    return model


def test_a_checkpoint_becomes_a_program_that_runs_at_any_batch_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.pt2"
    assert run(["fold", str(SAMPLES / "healthy.pt"), *MODEL, "-o", str(out)]) == 0
    assert "folded into conv1" in capsys.readouterr().out
    module = torch.export.load(out).module()
    model = _healthy()
    for batch in (1, 2, 7):
        x = torch.randn(batch, 1, 8, 8)
        torch.testing.assert_close(module(x), model(x), rtol=1e-4, atol=1e-4)


def test_json_has_the_promised_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "net.pt2"
    assert run(["fold", str(SAMPLES / "healthy.pt2"), "-o", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "bncheck.fold/1"
    assert report["summary"] == {"total": 4, "folded": 4, "kept": 0}
    assert set(report["batchnorms"][0]) == {"name", "op", "status", "into", "through", "reason"}
    assert report["parity"]["batches"] == [2, 3]
    assert report["parity"]["max_relative_error"] < 1e-5
    assert report["output"] == str(out)


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "net.pt2"
    assert run(["fold", str(SAMPLES / "healthy.pt2"), "-o", str(out), "--dry-run"]) == 0
    assert not out.exists()


def test_keep_leaves_some_and_fail_unfolded_refuses_to_write(tmp_path: Path) -> None:
    out = tmp_path / "net.pt2"
    source = str(SAMPLES / "healthy.pt2")
    assert run(["fold", source, "-o", str(out), "--keep", "bn1", "--fail-unfolded"]) == 1
    assert not out.exists()
    assert run(["fold", source, "-o", str(out), "--keep", "bn*"]) == 0
    assert "bn1.running_mean" in torch.export.load(out).state_dict


def test_a_tolerance_that_nothing_meets_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.pt2"
    source = str(SAMPLES / "healthy.pt2")
    assert run(["fold", source, "-o", str(out), "--tolerance", "1e-12"]) == 1
    assert "NOT THE SAME FUNCTION" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["healthy.pt", "-o", "OUT.pt2"], "--model"),
        (["healthy.pt", *MODEL[:2], "-o", "OUT.pt2"], "--input"),
        (["healthy.pt", *MODEL[:3], "3,8,8", "-o", "OUT.pt2"], "nets.py:23"),
        (["healthy.pt", *MODEL[:3], "3x8", "-o", "OUT.pt2"], "is not a shape"),
        (["healthy.pt2"], "-o is missing"),
        (["healthy.pt2", "-o", "OUT.txt"], "does not end in"),
        (["healthy.pt2", "-o", "nowhere/OUT.pt2"], "does not exist"),
        (["healthy.pt2", "-o", "OUT.safetensors"], "names no modules"),
        (["healthy.onnx", "-o", "OUT.pt2"], "an ONNX model"),
        (["healthy.pt2", "-o", "OUT.onnx"], "bncheck export"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words_ = [word.replace("OUT", str(tmp_path / "out")) for word in arguments[1:]]
    assert run(["fold", str(SAMPLES / arguments[0]), *words_]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_state_dict_loads_into_its_own_architecture_only(tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    assert run(["fold", str(SAMPLES / "healthy.pt"), *MODEL, "-o", str(out)]) == 0
    original, model = _healthy(), DigitNet().eval()
    bncheck.load_folded(model, out)
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(model(x), original(x), rtol=1e-4, atol=1e-4)
    assert isinstance(model.bn1, torch.nn.Identity)
    for other in (model, torch.nn.Linear(2, 3)):
        before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        with pytest.raises(bncheck.BncheckError, match="model"):
            bncheck.load_folded(other, out)
        assert all(torch.equal(before[name], t) for name, t in other.state_dict().items())


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


def test_training_on_does_not_change_the_folded_program() -> None:
    model = _healthy()
    result = bncheck.fold(model, (torch.randn(2, 1, 8, 8),))
    x = torch.randn(3, 1, 8, 8)
    before = result.module()(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(before, result.module()(x))


def test_the_rules_explain_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    for code in ("BN402", "BN403", "BN404"):
        assert run(["rule", code]) == 0
        assert code in capsys.readouterr().out
