"""Runs bncheck command lines, each in a fork of a process that has imported everything already.

A process start costs 0.2 s, a fork 10 ms, and a fork can be killed, can crash and can run out of
memory without taking the tests along. This file imports no torch: what it measures is bncheck.

Protocol: a line of JSON {argv, seconds, bytes, marker} on stdin, a line of JSON on stdout.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Outcome:
    """What a command line did. `code` is negative where a signal ended it: -24 for too much
    processor time, -9 for too long by the clock.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float
    peak_bytes: int


class Batch:
    """The forking process, from the side of the tests."""

    def __init__(self, divisor: int = 1) -> None:
        """`divisor`: what the limits on a file's size and number are divided by."""
        command = [sys.executable, "-P", str(Path(__file__)), str(divisor)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self, argv: list[str], marker: Path, seconds: float = 10.0, memory: int = 2 << 30
    ) -> Outcome:
        request = {"argv": argv, "seconds": seconds, "bytes": memory, "marker": str(marker)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)


def _child(
    argv: list[str], seconds: float, memory: int, marker: str, out: IO[bytes], err: IO[bytes]
) -> None:
    from bncheck.cli import _GARBAGE, run

    gc.set_threshold(*_GARBAGE)  # as the console script does
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["BNCHECK_MARKER"] = marker
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    code = 97
    try:
        code = run(argv)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _serve(request: dict[str, object]) -> Outcome:
    argv, marker = request["argv"], request["marker"]
    seconds, memory = request["seconds"], request["bytes"]
    assert isinstance(argv, list)
    assert isinstance(marker, str)
    assert isinstance(seconds, float)
    assert isinstance(memory, int)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        pid = os.fork()
        if not pid:
            _child([str(word) for word in argv], seconds, memory, marker, out, err)
        while True:
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if done:
                break
            # Processor time is what a busy machine does not change; the clock ends what waits.
            if time.monotonic() - start > 4 * seconds:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
        spent = time.monotonic() - start
        out.seek(0)
        err.seek(0)
        texts = [stream.read().decode("utf-8", "surrogateescape") for stream in (out, err)]
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code, texts[0], texts[1], spent, usage.ru_maxrss * 1024)


_SAMPLES = str(Path(__file__).parents[1] / "sample_models" / "healthy")
#: Command lines that between them import what a run needs.
_WARM_UP = (
    *(["inspect", "--verbose", _SAMPLES + suffix] for suffix in (".pt", ".safetensors", ".onnx")),
    *(["inspect", "--format", name, f"{_SAMPLES}.pt"] for name in ("html", "junit", "sarif")),
    *(["inspect", "--format", name, f"{_SAMPLES}.pt"] for name in ("github", "gitlab", "markdown")),
    ["drift", f"{_SAMPLES}.pt", f"{_SAMPLES}.safetensors"],
)


def _warm_up() -> None:
    """Run them here, so that a fork finds what they import and make once (options, patterns)."""
    from bncheck.cli import run

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for argv in _WARM_UP:
            run(argv)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page


def _divide_limits(divisor: int) -> None:
    """Before other modules take their own copies. Depths and such are no sizes, and stay."""
    from bncheck.core import limits

    names = {name for name, most in vars(limits).items() if name.startswith("MAX_")}
    modules = [module for name, module in sys.modules.items() if name.startswith("bncheck.")]
    taken = [module.__name__ for module in modules if names & {*vars(module)}]
    assert taken == [limits.__name__], taken
    for name in names:
        if (most := getattr(limits, name)) >= 10_000:
            setattr(limits, name, most // divisor)


def main() -> None:
    _divide_limits(int(sys.argv[1]))
    _warm_up()
    assert "torch" not in sys.modules
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line)).__dict__), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
