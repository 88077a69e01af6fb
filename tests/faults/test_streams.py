"""Streams that are closed, full or broken, and surroundings that lack something."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bncheck.cli import run
from tests.batch import SCRIPT
from tests.planted import SAMPLES
from tests.warm import Warm

SICK, HEALTHY = str(SAMPLES / "nan.pt"), str(SAMPLES / "healthy.pt")


#: A cheap run of each command, in a folder with a pyproject.toml, and its exit code.
COMMANDS = {
    "inspect": ("inspect $SICK", 1),
    "drift": ("drift $SAMPLES/snapshots/epoch-001.pt $SAMPLES/snapshots/epoch-002.pt", 0),
    "recalibrate": ("recalibrate $SAMPLES/under-warmed-module.pt -o out.pt", 0),
    "fold": ("fold $SAMPLES/healthy.onnx --dry-run", 0),
    "export": ("export $SAMPLES/healthy.onnx -o out.onnx", 2),
    "compare": ("compare $SAMPLES/healthy.onnx $SAMPLES/healthy.onnx", 0),
    "gate": ("gate", 1),
    "rule": ("rule BN101", 0),
}
PROJECT = f"[tool.bncheck.models.net]\ncheckpoint = {SICK!r}\n"


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a new process from the console script, unless the environment names another."""
    env = {"PATH": os.environ["PATH"], "BNCHECK": SCRIPT[0], "SAMPLES": str(SAMPLES)}
    env |= {"SICK": SICK, "HEALTHY": HEALTHY}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        capture_output=True, text=True, errors="surrogateescape", env=env | environment, timeout=60,
    )  # fmt: skip


def test_a_full_disk_on_stdout() -> None:
    done = shell("$BNCHECK inspect $HEALTHY > /dev/full")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        (
            "bncheck: error: stdout: cannot be written to (No space left on device); redirect it "
            "elsewhere"
        )
    ]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$BNCHECK inspect $SICK >&-", 1),
        ("$BNCHECK inspect $HEALTHY >&-", 0),
        ("$BNCHECK inspect $SICK <&-", 1),
        ("$BNCHECK inspect $SICK 2>&-", 1),
        ("$BNCHECK inspect absent 2>&-", 2),
        ("$BNCHECK inspect absent 2>/dev/full", 2),
        ("$BNCHECK inspect $SICK <&- >&- 2>&-", 1),
        ("$BNCHECK --version > /dev/full", 2),
        ("$BNCHECK inspect --verbose $SICK | true", 1),
        ("$BNCHECK inspect absent 2> >(true)", 2),
    ],
)
def test_closed_and_broken_streams(line: str, code: int) -> None:
    done = shell(line)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_reader_that_leaves_early() -> None:
    """More output than a pipe holds; the code is still that of the verdict."""
    many = " ".join(["$SICK"] * 60)
    done = shell(f"$BNCHECK inspect --json {many} | head -1")
    assert (done.returncode, done.stdout, done.stderr) == (1, "{\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_without_streams(command: str, tmp_path: Path, warm: Warm) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    line, code = COMMANDS[command]
    done = shell(f"cd {tmp_path}; $BNCHECK {line} <&- >&- 2>&-", BNCHECK=str(warm.bncheck))
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_whose_reader_leaves(command: str, tmp_path: Path, warm: Warm) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    line, code = COMMANDS[command]
    done = shell(f"cd {tmp_path}; $BNCHECK {line} --json | true", BNCHECK=str(warm.bncheck))
    assert done.returncode == code
    errors = [text for text in done.stderr.splitlines() if not text.startswith("bncheck: note: ")]
    assert len(errors) == (code == 2)
    assert "bug in bncheck" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_in_poor_surroundings(command: str, tmp_path: Path) -> None:
    """Ten columns, plain ASCII, and neither HOME nor TERM."""
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    line, code = COMMANDS[command]
    poor = {"COLUMNS": "10", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell(f"cd {tmp_path}; $BNCHECK {line}", **poor)
    assert done.returncode == code
    assert done.stdout.isascii()
    assert (done.stdout == "") == (code == 2)
    assert all(text.startswith("bncheck: ") for text in done.stderr.splitlines()), done.stderr
    assert "bug in bncheck" not in done.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {},  # no HOME, no TERM, no LANG
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        {"COLUMNS": "10"},
        {"TMPDIR": "/absent", "HOME": "/absent", "TERM": "dumb"},
    ],
    ids=["bare", "ascii", "narrow", "no-temporary-folder"],
)
def test_bare_surroundings(environment: dict[str, str], tmp_path: Path) -> None:
    name = tmp_path / "größe 权重.pt"
    name.write_bytes((SAMPLES / "nan.pt").read_bytes())
    done = shell('$BNCHECK inspect --verbose "$FILE"', FILE=str(name), **environment)
    assert done.returncode == 1
    assert "BN102" in "".join(done.stdout.split())
    assert done.stderr == ""


def test_a_crash_is_two_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class LoudError(Exception):
        def __str__(self) -> str:
            return "\x1b[31m\n::error::" + "x" * 10_000

    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError

    for error in (LoudError(), MuteError(), RecursionError("deep"), SystemExit(0), GeneratorExit()):

        def fail(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("bncheck.inspecting.command.open_checkpoint", fail)
        assert run(["inspect", HEALTHY]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("bncheck: error: ")
        assert err.count("\n") == 1
        assert len(err) < 800
        assert "\x1b" not in err
        assert "::" not in err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_crash_of_every_command(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line, _ = COMMANDS[command]
    words = line.replace("$SAMPLES", str(SAMPLES)).replace("$SICK", SICK).split()
    broken = "rules.registry.find_rule" if command == "rule" else "cli.policy.PolicyOptions.tally"
    for error in (KeyError("x"), EOFError(), OSError(5, "odd"), AssertionError(), StopIteration()):

        def fail(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(f"bncheck.{broken}", fail)
        for debug in ("", "1"):
            monkeypatch.setenv("BNCHECK_DEBUG", debug)
            assert run(words) == 2
            out, err = capsys.readouterr()
            assert out == ""
            *traceback, last = err.splitlines()
            assert f"this is a bug in bncheck ({type(error).__name__}" in last
            assert ("BNCHECK_DEBUG=1" in last) != bool(debug)
            assert bool(traceback) == bool(debug)
            assert not debug or any("in fail" in text for text in traceback)


def test_memory_that_runs_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("bncheck.inspecting.command.open_checkpoint", fail)
    assert run(["inspect", HEALTHY]) == 2
    assert "ran out of memory" in capsys.readouterr().err


def test_the_traceback_on_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("\x1b[31mhere")

    monkeypatch.setenv("BNCHECK_DEBUG", "1")
    monkeypatch.setattr("bncheck.inspecting.command.open_checkpoint", fail)
    assert run(["inspect", HEALTHY]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "\x1b" not in err
