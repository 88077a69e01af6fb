"""What was meant by a name that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from bncheck.cli import run
from tests.folding.command import SAMPLES


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("net.pth", "did you mean net.pt?"),
        ("runs/epoch_10.pt", "did you mean runs/epoch-10.pt?"),
        ("other", "check the path"),
        ("nowhere/net.pt", "check the path"),
    ],
)
def test_a_file_of_nearly_the_same_name_is_named(
    word: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "net.pt").touch()
    (tmp_path / "runs" / "epoch-10.pt").touch()
    monkeypatch.chdir(tmp_path)
    assert run(["inspect", word]) == 2
    assert capsys.readouterr().err == f"bncheck: error: {word}: does not exist; {said}\n"


def test_a_module_without_a_name_in_it_is_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "src" / "mine"
    package.mkdir(parents=True)
    (package / "nets.py").write_text("from torch import nn\nclass Net(nn.Module): ...\n")
    monkeypatch.chdir(tmp_path)
    net = str(SAMPLES / "healthy.pt")
    assert run(["inspect", net, "--model", "mine.nets", "--data", "x.npy"]) == 2
    assert "write --model mine.nets:Net" in capsys.readouterr().err
