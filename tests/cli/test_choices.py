"""Every command says which part of a file of several it took, and how the others are."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch

import bncheck
from bncheck.cli import run
from tests.planted import SAMPLES

TOLD = "two.pt: using state_dict; --key selects another: ema (broken)"
MODEL = f"--model {shlex.quote(str(SAMPLES / 'nets.py'))}:DigitNet"
DATA = f"--data {shlex.quote(str(SAMPLES / 'digits-train.npz'))} --max-samples 128"
COMMANDS = {
    "inspect": "inspect two.pt",
    "recalibrate": f"recalibrate two.pt {MODEL} {DATA} -o out.pt",
    "fold": f"fold two.pt {MODEL} --input 1,8,8 --dry-run",
    "export": f"export two.pt {MODEL} --input 1,8,8 -o out.onnx",
    "compare": f"compare two.pt two.pt {MODEL} --input 1,8,8",
    "gate": "gate",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    healthy = torch.load(SAMPLES / "healthy.pt")["state_dict"]
    broken = torch.load(SAMPLES / "nan.pt")["state_dict"]
    torch.save({"state_dict": healthy, "ema": broken}, "two.pt")
    torch.save({"state_dict": healthy, "step": 1}, "one.pt")
    shutil.copy("two.pt", "again.pt")
    Path("pyproject.toml").write_text('[tool.bncheck.models.net]\ncheckpoint = "two.pt"\n')
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_the_part_is_said(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shlex.split(COMMANDS[command])) in ((2,) if command == "gate" else (0, 1))
    assert TOLD in capsys.readouterr().err
    if command != "gate":
        assert run([*shlex.split(COMMANDS[command]), "--key", "state_dict"]) in (0, 1)
        assert "--key selects" not in capsys.readouterr().err


def test_a_gate_does_not_guess_which_model_is_shipped(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["gate"]) == 2
    said = capsys.readouterr()
    assert "holds ema, which is broken, beside state_dict" in said.err + said.out
    for key, code in (("state_dict", 0), ("ema", 1)):
        with Path("pyproject.toml").open("a") as file:
            file.write(f'key = "{key}"\n')
        assert run(["gate"]) == code
        text = Path("pyproject.toml").read_text()
        Path("pyproject.toml").write_text(text.replace(f'key = "{key}"\n', ""))


def test_drift_says_it_of_all_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["drift", "two.pt", "again.pt"]) == 0
    err = capsys.readouterr().err
    assert err.count("using state_dict of every snapshot; --key selects another: ema") == 1


def test_drift_says_where_parts_differ(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = torch.load("one.pt")["state_dict"]
    torch.save({"weights": tensors, "ema": tensors}, "other.pt")
    assert run(["drift", "two.pt", "other.pt"]) in (0, 1)
    assert "using different parts: state_dict of two.pt (1), " in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    ["inspect x.pt", "drift x.pt y.pt", "fold x.pt --model a:b --input 1 -o y.pt2",
     "export x.pt --model a:b --input 1 -o y.onnx", "compare x.onnx y.onnx",
     "recalibrate x.pt -o y.pt"],
)  # fmt: skip
@pytest.mark.parametrize("option", ["--max-samples", "--batch-size", "--scale"])
def test_options_about_data_need_data(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command.split(), option, "2"]) == 2
    assert capsys.readouterr().err.startswith(f"bncheck: error: {option} needs data;")


def test_inspect_reports_on_a_broken_part_beside_without_failing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its exit code, verdict and findings are those of the part that it took."""
    words = ["inspect", "two.pt", "--report", "json:a.json", "--report", "markdown:a.md"]
    assert run([*words, "--report", "github:a.txt"]) == 0
    said = "the file also holds ema, which is broken (BN102), and nothing says which is used"
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in Path("a.md").read_text()
    assert f"::warning file=two.pt,title=bncheck::{said}" in Path("a.txt").read_text()
    report = json.loads(Path("a.json").read_text())
    assert report["summary"]["verdict"] == "healthy"
    ema = {"key": "ema", "verdict": "broken", "cause": "BN102", "reason": None}
    assert report["others"] == [ema]
    assert [part.to_dict() for part in bncheck.inspect("two.pt").others] == [ema]
    assert run(["inspect", "two.pt", "--json", "--key", "state_dict"]) == 0
    assert json.loads(capsys.readouterr().out)["others"] == []
    assert run(["inspect", "two.pt", "one.pt", "--json", "--jobs", "2"]) == 0
    assert [r["others"] for r in json.loads(capsys.readouterr().out)["reports"]] == [[ema], []]


def test_a_broken_part_is_named_however_many_there_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = torch.load("two.pt")
    healthy, broken = parts["state_dict"], parts["ema"]
    parts = {key: {name: t.clone() for name, t in healthy.items()} for key in "abcdef"}
    torch.save({**parts, "last": broken}, "many.pt")
    assert run(["inspect", "many.pt"]) == 0
    said = capsys.readouterr()
    assert "using a; --key selects another: last (broken), b (no fault found)" in said.err
    assert "the file also holds last, which is broken (BN102)" in said.out
