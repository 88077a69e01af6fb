"""What a shell is offered at TAB: formats, rules, and the parts of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
import torch

from bncheck.cli import run
from bncheck.rules.registry import RULES
from tests.planted import SAMPLES

#: The words for a line with the cursor at its end.
Offered: TypeAlias = Callable[[str], list[str]]


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Offered:
    def complete(line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("_BNCHECK_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        assert run([]) == 0
        return capsys.readouterr().out.split()

    return complete


def test_formats_and_commands(offered: Offered) -> None:
    assert offered("bncheck inspect --format ") == [
        "text", "json", "markdown", "html", "sarif", "junit", "github", "gitlab",
    ]  # fmt: skip
    assert offered("bncheck drift --format s") == ["sarif", "svg"]
    assert offered("bncheck re") == ["recalibrate"]


def test_codes_and_names_of_rules(offered: Offered) -> None:
    codes = [rule.code for rule in RULES]
    assert offered("bncheck rule ") == codes
    assert offered("bncheck rule BN3") == [code for code in codes if code.startswith("BN3")]
    assert offered("bncheck rule never") == ["never-updated-statistics"]
    assert offered("bncheck inspect --select BN10") == [c for c in codes if c.startswith("BN10")]
    assert offered("bncheck gate --ignore BN101,BN201,dead-c") == ["BN101,BN201,dead-channels"]


@pytest.mark.parametrize("command", ["inspect", "drift", "fold", "export", "recalibrate"])
def test_keys_of_the_file_that_was_named(command: str, offered: Offered) -> None:
    path = SAMPLES / "ema-initial-buffers.pt"
    found = offered(f"bncheck {command} {path} --key ")
    assert {"model", "ema"} <= set(found)
    assert offered(f"bncheck {command} {path} --key em") == [k for k in found if k[:2] == "em"]
    assert offered(f"bncheck {command} no-such.pt --key ") == []
    assert offered(f"bncheck {command} {Path(__file__)} --key ") == []
    assert offered(f"bncheck {command} --key ") == []


def test_keys_that_a_shell_would_run_are_not_offered(tmp_path: Path, offered: Offered) -> None:
    parts = ("good", "$(touch owned)", "`id`", "*", "a b", "x;y", "~", "\x1b[2J", "new\nline")
    state = torch.nn.BatchNorm2d(3).state_dict()
    torch.save(dict.fromkeys(parts, state), tmp_path / "evil.pt")
    assert offered(f"bncheck inspect {tmp_path}/evil.pt --key ") == ["good"]
