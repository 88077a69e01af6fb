"""Two recorders never write into one folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bncheck.reading.record import read_record
from bncheck.recording import Recorder, holding
from tests.networks import SAMPLES
from tests.recording.training import Training, net

OTHER = """
import sys, torch
from bncheck.recording import Recorder
from tests.recording.training import net
model = net()
recorder = Recorder(model, sys.argv[1], every=1)
model(torch.randn(8, 8)); recorder.step()
print("ready", flush=True)
sys.stdin.read()
"""


def test_the_newer_recorder_of_a_process_writes_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = [net(), net()]
    recorders = [Recorder(model, tmp_path, every=5) for model in models]
    for _ in range(12):
        for model, recorder in zip(models, recorders, strict=True):
            model(torch.randn(8, 8))
            recorder.step()
    for recorder in recorders:
        recorder.close()
    (line,) = caplog.messages
    assert "is written by a newer Recorder of this process" in line
    assert read_record(tmp_path).runs == 1
    assert [entry.step for entry in read_record(tmp_path).entries] == [1, 5, 10, 12]


def test_a_folder_that_another_process_writes_into_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "_PATIENCE", 0.1)
    environment = {**os.environ, "PYTHONPATH": str(SAMPLES.parent)}
    words = [sys.executable, "-c", OTHER, str(tmp_path)]
    with subprocess.Popen(
        words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "ready\n"
        before = (tmp_path / "index.jsonl").read_bytes()
        training = Training(net(0.0), steps=40).run(tmp_path)
        assert {finding.rule for finding in training.found} == {"BN302"}  # it is told all the same
        assert (tmp_path / "index.jsonl").read_bytes() == before
        other.kill()
    (line,) = caplog.messages
    assert "is the record of another process that still runs" in line
    Training(steps=2).run(tmp_path)  # nobody holds it any more
    assert read_record(tmp_path).runs == 2
