"""Files that are read in several processes give what they give one after the other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bncheck.cli import run
from tests.planted import SAMPLES


def test_jobs_change_nothing_but_the_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in range(6):
        shutil.copy(SAMPLES / "healthy.pt", f"{place}-healthy.pt")
    shutil.copy(SAMPLES / "nan.pt", "2-nan.pt")
    shutil.copy(SAMPLES / "ema-initial-buffers.pt", "3-ema.pt")
    shutil.copytree(SAMPLES / "healthy-sharded", "4-sharded")
    shutil.copy(SAMPLES / "healthy.onnx", "4-net.onnx")
    Path("1-broken.pt").write_bytes(b"PK\x03\x04")
    codes, printed = [], []
    for jobs in ("1", "3"):
        codes.append(run(["inspect", ".", "--jobs", jobs, "--json"]))
        printed.append(capsys.readouterr())
    assert codes == [2, 2]
    assert printed[0] == printed[1]
    paths = [report["checkpoint"]["path"] for report in json.loads(printed[1].out)["reports"]]
    assert paths == sorted(paths)
    assert len(paths) == 10


def test_jobs_are_for_files_alone(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["inspect", str(SAMPLES / "stale.pt"), "-j", "2", "--model", "x:y"]
    assert run(words) == 2
    assert capsys.readouterr().err.startswith("bncheck: error: --jobs is for reading files alone;")
