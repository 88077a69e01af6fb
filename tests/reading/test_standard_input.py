"""`-` is what is piped in, and never a file of that name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bncheck.cli import run
from tests.planted import SAMPLES

COMMAND = [sys.executable, "-m", "bncheck"]


@pytest.mark.parametrize("name", ["nan.pt", "healthy.safetensors", "healthy.onnx"])
def test_it_is_inspected_as_a_file(name: str) -> None:
    data = (SAMPLES / name).read_bytes()
    piped = subprocess.run([*COMMAND, "inspect", "-"], input=data, capture_output=True, check=False)
    named = subprocess.run(
        [*COMMAND, "inspect", str(SAMPLES / name)], capture_output=True, check=False
    )
    assert piped.returncode == named.returncode
    assert len(piped.stdout.splitlines()) == len(named.stdout.splitlines())
    assert piped.stderr == named.stderr


def test_it_is_recalibrated_and_its_temporary_file_is_gone(tmp_path: Path) -> None:
    model, data = f"{SAMPLES}/nets.py:DigitNet", f"{SAMPLES}/digits-train.npz"
    words = ["recalibrate", "-", "--model", model, "--data", data, "-o", str(tmp_path / "x.pt")]
    done = subprocess.run(
        [*COMMAND, *words], input=(SAMPLES / "stale.pt").read_bytes(), capture_output=True,
        check=True, env={"TMPDIR": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert done.stdout.startswith(b"recalibrated -\n")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("bncheck")] == []
    assert (tmp_path / "x.pt").is_file()


def test_nothing_is_an_error_and_a_file_of_that_name_is_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run([*COMMAND, "inspect", "-"], input=b"", capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"bncheck: error: -: is empty")
    assert done.stderr.rstrip().endswith(b"check the command before it")  # not: download it again
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_bytes((SAMPLES / "nan.pt").read_bytes())
    assert run(["inspect", "--", "-"]) == 2
    assert "is both standard input and a file in this folder" in capsys.readouterr().err
    assert run(["inspect", "./-"]) == 1
