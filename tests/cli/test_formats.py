"""--format and --report take the formats that a command has, --help names those, no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bncheck.cli import run
from bncheck.cli.app import COMMANDS
from bncheck.reporting.formats import EXPLANATIONS, PICTURES, REPORTS, Format
from tests.reporting import validity

HAS = dict.fromkeys(COMMANDS, REPORTS) | {
    "drift": PICTURES, "landscape": PICTURES, "watch": PICTURES, "rule": EXPLANATIONS,
}  # fmt: skip
#: Words that are enough for the command line to be read.
WORDS = {"compare": ["a", "b"], "export": ["a", "-o", "x.onnx"], "recalibrate": ["a", "-o", "x.pt"],
         "rule": ["BN105"], "gate": [], "landscape": ["a", "--eta", "0.1"]}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_offers_the_formats_that_there_are(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command, "--help"]) == 0
    offered = re.search(r"--format <([a-z|\s]+)>", capsys.readouterr().out)
    assert offered
    assert tuple(map(Format, offered[1].split("|"))) == HAS[command]


@pytest.mark.parametrize(
    ("command", "word"),
    [(c, w) for c in COMMANDS for w in ("yaml", *sorted(set(PICTURES) - set(HAS[c])))],
)
def test_another_format_is_a_line_that_names_them(
    command: str,
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.bncheck]\n")
    word = str(word)
    asked = [["--format", word]] + [["--report", f"{word}:x"]] * (command != "rule")
    for options in asked:
        assert run([command, *WORDS.get(command, ["a"]), *options]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert f"'{word}'" in err
        assert ", ".join(f.value for f in HAS[command]) in err


@pytest.mark.parametrize("format_", EXPLANATIONS)
@pytest.mark.parametrize("asked", ["BN105", "--all"])
def test_a_rule_is_explained_in_its_formats(
    asked: str, format_: Format, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["rule", asked, "--format", format_.value]) == 0
    out = capsys.readouterr().out
    validity.check(format_.value, out)
    starts = {"text": "BN1", "json": "{", "markdown": "## bncheck", "html": "<!doctype html>"}
    assert out.lstrip().startswith(starts[format_.value])
    assert "BN105" in out
    assert "too few batches" in " ".join(out.split())
    assert ("BN404" in out) == (asked == "--all")
