"""The command that findings name, typed as it is printed, repairs what was inspected."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bncheck.cli import run
from bncheck.data import DataOptions
from bncheck.inspecting.from_file import InspectOptions
from bncheck.inspecting.repair import IN_PYTHON, recalibrate_command
from bncheck.subject.setup import Measuring
from tests.planted import SAMPLES


def options_of(line: str) -> dict[str, str]:
    words = shlex.split(line)
    return dict(zip(words[3::2], words[4::2], strict=True))


def test_every_option_and_digit_is_in_it() -> None:
    measuring = Measuring(
        "nets.py:A b",
        "x.npz",
        ("depth=20", "norm='bn'"),
        DataOptions(16, 100, 1 / 255, (0.485, 0.456, 0.406), [0.2], (32, 32)),
        device="cuda:1",
        metric="m.py:f1",
    )
    line = recalibrate_command(Path("a/my net.pt"), InspectOptions("ema", 1e-5, 0.01, 4), measuring)
    words = shlex.split(line)
    assert words[:3] == ["bncheck", "recalibrate", "a/my net.pt"]
    assert [words[i + 1] for i, w in enumerate(words) if w == "--model-arg"] == [
        "depth=20",
        "norm='bn'",
    ]
    said = options_of(line)
    assert float(said.pop("--scale")) == 1 / 255
    del said["--model-arg"]
    assert said == {
        "--model": "nets.py:A b", "--device": "cuda:1", "--data": "x.npz",
        "--mean": "0.485,0.456,0.406", "--std": "0.2", "--size": "32,32", "--batch-size": "16",
        "--max-samples": "100", "--metric": "m.py:f1", "--key": "ema", "--eps": "1e-05",
        "--momentum": "0.01", "--train-batch-size": "4", "-o": "a/my net-recalibrated.pt",
    }  # fmt: skip


def test_what_was_not_said_is_not_in_it() -> None:
    line = recalibrate_command(Path("a.pt"), InspectOptions(), Measuring("n.py:N", "d.npz"))
    assert line == "bncheck recalibrate a.pt --model n.py:N --data d.npz -o a-recalibrated.pt"
    assert " --trust " in recalibrate_command(
        Path("a.pt"), InspectOptions(), Measuring(None, "d.npz", trust=True)
    )


def test_a_name_is_not_an_option_in_it() -> None:
    line = recalibrate_command(Path("--key=x.pt"), InspectOptions(), Measuring("n.py:N", "d.npz"))
    assert shlex.split(line)[2] == "./--key=x.pt"


def test_objects_cannot_be_typed() -> None:
    for measuring in (Measuring(torch.nn.Linear(1, 1), "d.npz"), Measuring("n.py:N", [1])):
        assert recalibrate_command(Path("a.pt"), InspectOptions(), measuring) == IN_PYTHON
    assert recalibrate_command(None, InspectOptions(), Measuring("n.py:N", "d.npz")) == IN_PYTHON


GATE = """
[tool.bncheck.models.net]
checkpoint = "models/*.pt"
model = "networks:build"
model-args = {momentum = 0.2}
data = "data/raw.npz"
key = "ema"
scale = 2.0
mean = [0.25]
std = [0.5]
batch-size = 32
samples = 300
eps = 1e-5
momentum = 0.2
"""


def project(folder: Path) -> Path:
    """A repository whose checkpoint has a healthy part and a stale one, and raw data."""
    import numpy as np

    for name in ("models", "data", "sub"):
        (folder / name).mkdir()
    healthy = torch.load(SAMPLES / "healthy.pt")["state_dict"]
    stale = torch.load(SAMPLES / "stale.pt")["state_dict"]
    torch.save({"state_dict": healthy, "ema": stale}, folder / "models" / "my net.pt")
    images = np.load(SAMPLES / "digits-train.npz")
    raw = (images["x"] * 0.5 + 0.25) * 2
    np.savez(folder / "data" / "raw.npz", x=raw.astype("float32"), y=images["y"])
    shutil.copy(SAMPLES / "nets.py", folder / "digit_nets.py")
    (folder / "networks.py").write_text(
        "from digit_nets import DigitNet\n\n\ndef build(momentum):\n    return DigitNet(momentum)\n"
    )
    (folder / "pyproject.toml").write_text(GATE)
    return folder


@pytest.mark.parametrize("below", [".", "sub"])
def test_what_gate_prints_repairs_the_part_that_is_broken(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Typed from the folder in which gate ran, in a shell of its own."""
    folder = project(tmp_path)
    monkeypatch.chdir(folder / below)
    assert run(["gate", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)["models"][0]["reports"][0]
    (fix,) = {f["fix"] for f in report["findings"] if f["severity"] == "error"}
    line = fix.split("`")[1]
    assert run(["gate"]) == 1
    out = capsys.readouterr().out
    assert "".join(line.split()) in "".join(out.split())
    typed(line)
    repaired = folder / "models" / "my net-recalibrated.pt"
    (folder / "models" / "my net.pt").unlink()
    assert run(["gate", "--json"]) == 0
    assert repaired.exists()
    healthy = torch.load(SAMPLES / "healthy.pt")["state_dict"]
    kept = torch.load(repaired)["state_dict"]
    assert all(torch.equal(kept[name], healthy[name]) for name in healthy)


def typed(line: str) -> None:
    """Run a printed line as a shell does, with this interpreter's bncheck."""
    command = f"{shlex.quote(sys.executable)} -m bncheck"
    own = os.pathsep.join(path for path in sys.path if path)
    head, _, rest = line.partition("bncheck ")
    variable = head.strip().removeprefix("PYTHONPATH=").strip("'")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [variable, own]))}
    subprocess.run(f"{command} {rest}", shell=True, check=True, env=environment)
