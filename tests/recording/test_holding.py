"""Two recorders never write into one folder."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from bncheck.reading.record import read_record
from bncheck.recording import Recorder, holding
from tests.launching import forked
from tests.recording.training import Training, net


def hold(folder: Path, ready: Connection) -> None:
    """Record a step, and keep the folder until killed."""
    model = net()
    recorder = Recorder(model, folder, every=1)
    model(torch.randn(8, 8))
    recorder.step()
    ready.send("ready")
    time.sleep(60)


def test_the_newer_recorder_of_a_process_writes_alone(tmp_path: Path, logged: list[str]) -> None:
    models = [net(), net()]
    recorders = [Recorder(model, tmp_path, every=5) for model in models]
    for _ in range(12):
        for model, recorder in zip(models, recorders, strict=True):
            model(torch.randn(8, 8))
            recorder.step()
    for recorder in recorders:
        recorder.close()
    (line,) = logged
    assert "is written by a newer Recorder of this process" in line
    assert read_record(tmp_path).runs == 1
    assert [entry.step for entry in read_record(tmp_path).entries] == [1, 5, 10, 12]


def test_a_folder_that_another_process_writes_into_is_left_alone(
    tmp_path: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "_PATIENCE", 0.1)
    run = tmp_path / "run"
    ready, sender = multiprocessing.Pipe(duplex=False)
    other = forked(hold, run, sender, said=tmp_path / "said")
    assert ready.poll(60)
    before = (run / "index.jsonl").read_bytes()
    training = Training(net(0.0), steps=40).run(run)
    assert {finding.rule for finding in training.found} == {"BN302"}  # it is told all the same
    assert (run / "index.jsonl").read_bytes() == before
    other.kill()
    other.join()
    (line,) = logged
    assert "is the record of another process that still runs" in line
    Training(steps=2).run(run)  # nobody holds it any more
    assert read_record(run).runs == 2
