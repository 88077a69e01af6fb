"""Streams that are closed, full or broken, and surroundings that lack something."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bncheck.cli import run
from tests.hostile.case import SCRIPT
from tests.planted import SAMPLES

SICK, HEALTHY = str(SAMPLES / "nan.pt"), str(SAMPLES / "healthy.pt")


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "BNCHECK": SCRIPT[0], "SICK": SICK, "HEALTHY": HEALTHY}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        capture_output=True, text=True, errors="surrogateescape", env=env | environment, timeout=60,
    )  # fmt: skip


def test_a_full_disk_on_stdout() -> None:
    done = shell("$BNCHECK inspect $HEALTHY > /dev/full")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "bncheck: error: stdout: cannot be written to (No space left on device); send it elsewhere"
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

        monkeypatch.setattr("bncheck.inspection.open_checkpoint", fail)
        assert run(["inspect", HEALTHY]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("bncheck: error: ")
        assert err.count("\n") == 1
        assert len(err) < 800
        assert "\x1b" not in err
        assert "::" not in err


def test_memory_that_runs_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("bncheck.inspection.open_checkpoint", fail)
    assert run(["inspect", HEALTHY]) == 2
    assert "ran out of memory" in capsys.readouterr().err


def test_the_traceback_on_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("\x1b[31mhere")

    monkeypatch.setenv("BNCHECK_DEBUG", "1")
    monkeypatch.setattr("bncheck.inspection.open_checkpoint", fail)
    assert run(["inspect", HEALTHY]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "\x1b" not in err
