"""BNCHECK_TIMING=1: stages that add up to the whole, and nothing where nobody asked."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import time

import pytest

from bncheck.core import timing
from bncheck.core.timing import IMPORTING, REST, VARIABLE, Stopwatch, timed
from tests.networks import SAMPLES

COMMAND = [sys.executable, "-m", "bncheck", "inspect", str(SAMPLES / "healthy.pt")]


def test_a_stage_within_a_stage_counts_for_itself_alone() -> None:
    watch = Stopwatch()
    with watch.stage("outer"):
        time.sleep(0.02)
        for _ in range(2):
            with watch.stage("inner"):
                time.sleep(0.02)
    outer, inner = watch.seconds["outer"], watch.seconds["inner"]
    assert 0.02 <= outer < outer + inner
    assert inner >= 0.04
    told = [line.split(" s  ") for line in watch.lines()]
    assert [name for _, name in told] == ["inner", "outer", REST]
    total = time.perf_counter() - watch.start
    assert sum(float(took) for took, _ in told) <= total + 0.01


def test_what_fails_is_timed_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    @timed("failing")
    def fail() -> None:
        raise ValueError("as it happens")

    monkeypatch.setenv(VARIABLE, "1")
    timing.begin()
    with pytest.raises(ValueError, match="as it happens"):
        fail()
    assert any("failing" in line for line in timing.lines())
    monkeypatch.delenv(VARIABLE)
    timing.begin()
    assert timing.lines() == []
    assert builtins.__import__ is timing._import


def test_the_command_says_it_on_stderr_and_only_when_asked() -> None:
    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            COMMAND, env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )

    plain, asked = run(), run(BNCHECK_TIMING="1")
    assert plain.stderr == ""
    assert plain.stdout == asked.stdout
    stages = [line.split(" s  ")[1] for line in asked.stderr.splitlines()]
    assert stages == [IMPORTING, "reading the file", "judging the file", REST]
