"""What is made of running statistics is made once a recorded step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bncheck.recording import Recorder, seeing
from bncheck.recording.state import eps_of


def test_eps_is_gathered_once_a_recorded_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = eps_of

    def counted(module: nn.Module) -> float:
        asked.append(module)
        return real(module)

    monkeypatch.setattr(seeing, "eps_of", counted)
    norms = [nn.BatchNorm1d(4) for _ in range(3)]
    model = nn.Sequential(*norms)
    recorder = Recorder(model, tmp_path / "run", every=1)
    for _ in range(5):
        model(torch.randn(8, 4))
        asked.clear()
        recorder.step()
        assert len(asked) == len(norms)
    recorder.close()
