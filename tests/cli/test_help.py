"""--help: options under headings, examples that the command line takes, exit codes, the width."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from bncheck.cli import run
from bncheck.cli.app import COMMANDS, build_group
from bncheck.cli.help import Heading


def _command(name: str) -> Any:
    return build_group(name).commands[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_a_command_line_that_is_taken(name: str) -> None:
    command = _command(name)
    assert 2 <= len(command.told.examples) <= 3
    for example in command.told.examples:
        program, first, *words = shlex.split(example)
        assert (program, first) == ("bncheck", name)
        with command.make_context(name, words):
            pass


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_under_a_heading_and_exit_codes_are_told(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([name, "--help"]) == 0
    out = capsys.readouterr().out
    shown = [line[:-1] for line in out.splitlines() if line.endswith(":") and line[0] != " "]
    assert shown[0] == "Arguments"
    assert shown[-2:] == ["Examples", "Exit codes"]
    assert shown[1:-2] == [heading for heading in Heading if heading in shown]
    for parameter in _command(name).params:
        for option in parameter.opts:
            assert option in out or parameter.param_type_name == "argument"


def test_what_belongs_together_stands_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "--help"]) == 0
    out = capsys.readouterr().out
    parts = {heading: out.index(f"\n{heading}:\n") for heading in Heading}
    places = sorted((place, heading) for heading, place in parts.items())
    for option, heading in {
        "--eps": "Options", "--model-arg": "Model", "--trust": "Model", "--scale": "Data",
        "--metric": "Data", "--select": "Judging", "--baseline": "Judging", "--output": "Reports",
        "--format": "Reports", "--quiet": "Reports",
    }.items():  # fmt: skip
        place = out.index(f"{option} ")
        assert max(pair for pair in places if pair[0] < place)[1] == heading


@pytest.mark.parametrize("columns", [40, 80, 100])
def test_help_is_as_wide_as_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run(["gate", "--help"]) == 0
    lines = capsys.readouterr().out.partition("Examples:")[0].splitlines()
    whole = [line for line in lines if "--format <" not in line]  # a word alone cannot be broken
    assert columns - 12 <= max(map(len, whole)) <= columns
