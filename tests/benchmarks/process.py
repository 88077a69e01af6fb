"""What a process costs, as the operating system accounts for it."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BNCHECK = "from bncheck.cli import main; main()"
#: Runs of one command line, fewer where they take long.
RUNS, ENOUGH_SECONDS = 3, 6.0


@dataclass(frozen=True)
class Cost:
    """CPU seconds of a process and its children, seconds by the clock, peak memory in MiB."""

    cpu: float
    wall: float
    peak: float


def measure(*arguments: str, cwd: str | Path | None = None) -> Cost:
    """`python -c ARGUMENTS` in a process of its own, one thread.

    A child's peak memory begins at its parent's: whoever calls this imports no torch.
    """
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **threads, "PYTHONPATH": path}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", *arguments],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=cwd,
    )  # fmt: skip
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in (0, 1), (arguments, said[-2000:])
    return Cost(
        usage.ru_utime + usage.ru_stime, time.perf_counter() - start, usage.ru_maxrss / 1024
    )


def bncheck(*arguments: str, cwd: str | Path | None = None) -> Cost:
    """A command as users run it."""
    return measure(BNCHECK, *arguments, cwd=cwd)


def in_turns(lines: Sequence[Sequence[str]]) -> list[Cost]:
    """The medians of arguments for `measure`, run in turns."""
    found: list[list[Cost]] = [[] for _ in lines]
    for _ in range(RUNS):
        for line, costs in zip(lines, found, strict=True):
            costs.append(measure(*line))
        if sum(cost.cpu for costs in found for cost in costs) > ENOUGH_SECONDS:
            break
    return [
        Cost(
            *(
                statistics.median(getattr(c, name) for c in costs)
                for name in ("cpu", "wall", "peak")
            )
        )
        for costs in found
    ]
