"""Batches beside the training are judged at once: averages recover from them in some steps."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from bncheck.core.findings import Finding
from bncheck.recording import Recorder


def test_validation_in_train_between_two_judgements_is_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    said: list[Finding] = []
    model = nn.Sequential(nn.BatchNorm1d(8))
    recorder = Recorder(model, tmp_path / "run", every=1, on_finding=said.append)
    for step in range(1, 141):
        if step == 104:
            for _ in range(10):
                model(3 + torch.randn(64, 8))
        model(torch.randn(64, 8))
        recorder.step()
        if step == 103:
            assert not said
    recorder.close()
    steps = [one.evidence["step"] for one in said if one.rule == "BN308"]
    assert steps == [104]
