"""inspect and recalibrate with a model and data, as a newcomer types them."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch

from bncheck.cli import run
from tests.planted import SAMPLES

MODEL = ("--model", f"{SAMPLES / 'nets.py'}:DigitNet")
DATA = ("--data", str(SAMPLES / "digits-train.npz"))


def typed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_that_is_shown_fixes_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copy the line after `next:`, type it, and inspect what it wrote."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    sick = tmp_path / "my stale net.pt"
    sick.write_bytes((SAMPLES / "stale.pt").read_bytes())
    code, out, _ = typed(capsys, "inspect", str(sick), *MODEL, *DATA)
    assert code == 1
    assert "BN202 stale-statistics" in out
    (line,) = [line for line in out.splitlines() if line.startswith("next:")]
    words = shlex.split(line.removeprefix("next:"))
    assert words[:2] == ["bncheck", "recalibrate"]
    code, out, _ = typed(capsys, *words[1:])
    assert code == 0
    assert "written" in out
    repaired = words[words.index("-o") + 1]
    code, out, _ = typed(capsys, "inspect", repaired, *MODEL, *DATA)
    assert code == 0
    assert out.startswith("healthy")


def test_json_of_both_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(SAMPLES / "class-sorted.pt")
    _, out, _ = typed(capsys, "inspect", path, *MODEL, *DATA, "--json")
    report = json.loads(out)
    assert report["summary"]["cause"] == "BN204"
    assert report["summary"]["metric"] == "accuracy"
    assert report["summary"]["samples"] == 1437
    assert report["layers"][3]["w2"]["eval"] == report["summary"]["w2"]
    out_path = str(tmp_path / "out.pt")
    _, out, _ = typed(capsys, "recalibrate", path, *MODEL, *DATA, "-o", out_path, "--json")
    report = json.loads(out)
    assert report["schema"] == "bncheck.recalibrate/1"
    assert report["written"] == out_path


def test_verbose_gives_advice(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(SAMPLES / "healthy.pt")
    code, out, _ = typed(capsys, "inspect", path, *MODEL, *DATA, "-v", "--shape")
    assert code == 0
    assert "batch size:" in out
    assert "condition number" in out
    assert "from -4 to 4 sd" in out


def test_refusing_to_make_it_worse_is_exit_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "metric.py").write_text(
        "def old_is_better(output, target, seen=[]):\n    seen.append(0)\n    return -len(seen)\n"
    )
    out = tmp_path / "out.pt"
    metric = ("--metric", f"{tmp_path / 'metric.py'}:old_is_better")
    stale = str(SAMPLES / "stale.pt")
    code, text, _ = typed(capsys, "recalibrate", stale, *MODEL, *DATA, *metric, "-o", str(out))
    assert code == 1
    assert "BN208" in text
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*DATA,), "--data needs a model"),
        ((*MODEL, "--data", "nowhere.npz"), "nowhere.npz: does not exist"),
        ((*MODEL, *DATA, "--mean", "a,b"), "is not a list of numbers"),
        ((*MODEL, *DATA, "--max-samples", "20"), "20 samples are not enough"),
        ((*MODEL, "--mean", "0.5"), "--mean needs data"),
        (("--max-samples", "20"), "--max-samples needs data"),
        (("--shape",), "--shape needs data"),
        ((*MODEL, *DATA, "--device", "cuda:99"), "--device cuda:99 cannot be used"),
        ((*MODEL, *DATA, "--max-samples", "1"), "1 sample is not enough"),
        ((*MODEL, *DATA, "--model-arg", "width=3"), "unexpected keyword argument"),
        (("--key", "nope"), "choose from state_dict"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = typed(capsys, "inspect", str(SAMPLES / "healthy.pt"), *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_model_alone_tells_eps_and_what_the_file_lacks(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = typed(capsys, "inspect", str(SAMPLES / "healthy.pt"), *MODEL)
    assert code == 0
    assert "eps 1e-05 from the model" in out
    state = torch.load(SAMPLES / "healthy.pt")["state_dict"]
    lost = {n: t for n, t in state.items() if not n.startswith("bn4.") or n.endswith("bias")}
    lost["bn4.weight"] = state["bn4.weight"]
    torch.save(lost, tmp_path / "lost.pt")
    code, out, _ = typed(capsys, "inspect", str(tmp_path / "lost.pt"), *MODEL, "--quiet")
    assert code == 1
    assert out.count("BN104 bn4") == 1
    code, _, err = typed(
        capsys, "recalibrate", str(SAMPLES / "stale.pt"), *MODEL, "-o", str(tmp_path / "x.pt")
    )
    assert (code, "--model needs data" in err) == (2, True)


def test_every_rule_about_data_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(201, 210):
        code, out, _ = typed(capsys, "rule", f"BN{number}")
        assert code == 0
        assert "Criterion:" in out
        assert "Fix:" in out


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        ("def build(:\n", (), "SyntaxError: invalid syntax (net.py:1); fix it there"),
        ("def build(width):\n    return 'a' % width\n", ("--model-arg", "width=x"),
         "(net.py:2); check --model-arg, or fix it there"),
        ("def build():\n    return 1 / 0\n", (), "(net.py:2); fix it there"),
    ],
)  # fmt: skip
def test_what_the_users_code_raises_is_one_line(
    code: str,
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "net.py").write_text(code)
    model = ("--model", f"{tmp_path / 'net.py'}:build", *arguments)
    _, _, err = typed(capsys, "inspect", str(SAMPLES / "healthy.pt"), *model, *DATA)
    assert err.endswith(f"{message}\n")
    assert len(err.splitlines()) == 1
