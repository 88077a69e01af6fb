"""track_running_stats=False is BN116 wherever it is seen: file, file and model, module, fold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import bncheck
from bncheck.cli import run

NETS = """
from torch import nn
def build():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.ReLU())
"""
X = torch.randn(40, 4)


def untracked() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False))


def test_a_module_is_told() -> None:
    for data in (None, [X]):
        report = bncheck.inspect(untracked(), data)
        assert [(f.rule, f.layer) for f in report.findings] == [("BN116", "1")]
        assert report.word == "no fault found"
    mixed = nn.Sequential(nn.BatchNorm1d(4), untracked())
    report = bncheck.inspect(mixed, [X, X])
    assert [layer.name for layer in report.layers] == ["0", "1.1"]
    assert ("BN116", "1.1") in [(f.rule, f.layer) for f in report.findings]
    assert report.unmeasured() == {"1.1": "keeps no running statistics"}


def test_a_file_with_its_model_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("untracked_nets.py").write_text(NETS)
    torch.save(untracked().state_dict(), "a.pt")
    torch.save(X, "x.pt")
    model = ("a.pt", "--model", "untracked_nets.py:build")
    for data in ((), ("--data", "x.pt")):
        assert run(["inspect", *model, *data]) == 0
        out, err = capsys.readouterr()
        assert "BN116" in out
        assert ("nothing was measured" in err) == bool(data)
    assert run(["fold", *model, "--input", "4", "--dry-run"]) == 0
    assert "BN116" in capsys.readouterr().out
    assert run(["recalibrate", *model, "--data", "x.pt", "-o", "b.pt"]) == 2
    assert "BN116" in capsys.readouterr().err
