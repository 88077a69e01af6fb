"""What a project silences is told to those who read SARIF, and to nobody else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bncheck.cli import run
from tests.networks import SAMPLES

IGNORED = """
[tool.bncheck]
[[tool.bncheck.ignore]]
rule = "BN101"
layers = "bn2"
reason = "frozen on purpose"
[tool.bncheck.models.net]
checkpoint = "net.pt"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(SAMPLES / "one-layer-reset.pt", tmp_path / "net.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["runs"][0]["results"]
    return found


@pytest.mark.parametrize("command", [("inspect", "net.pt"), ("gate",)])
def test_an_exception_is_a_suppressed_result(project: Path, command: tuple[str, ...]) -> None:
    (project / "pyproject.toml").write_text(IGNORED)
    assert run([*command, "--report", "a.sarif", "--report", "a.json"]) == 0
    (result,) = results(project / "a.sarif")
    assert result["ruleId"] == "BN101"
    why = "[[tool.bncheck.ignore]]: frozen on purpose"
    assert result["suppressions"] == [{"kind": "external", "justification": why}]
    assert "BN101" not in (project / "a.json").read_text()


def test_a_known_finding_is_suppressed_and_a_new_one_is_not(project: Path) -> None:
    assert run(["inspect", "net.pt", "--isolated", "--report", "a.sarif"]) == 1
    assert "suppressions" not in results(project / "a.sarif")[0]
    assert run(["inspect", "net.pt", "--isolated", "--write-baseline", "known.json"]) == 0
    asked = ["inspect", "net.pt", "--isolated", "--baseline", "known.json"]
    assert run([*asked, "--report", "b.sarif"]) == 0
    (result,) = results(project / "b.sarif")
    assert result["suppressions"][0]["justification"] == "known: known.json"
