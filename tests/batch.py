"""Runs command lines of bncheck, each in a process that can be killed, crash or run out of memory.

`Door` runs them as users do: a new process each. `Batch` runs them in forks of a process that has
imported everything, which takes 10 ms in place of 0.2 s. This file imports no torch, and little at
all: the kernel counts the memory of whoever starts a process into that of the process.

Protocol: a line of JSON {command, folder, marker, seconds} on stdin, a line of JSON on stdout.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

#: The console script beside the interpreter.
SCRIPT = (str(Path(sys.executable).with_name("bncheck")),)


@dataclass(frozen=True)
class Outcome:
    """What a command line did. `code` is negative where a signal ended it: -24 for too much
    processor time, -9 for too long by the clock. `seconds` are of processor time, which a busy
    machine does not change.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float
    peak_bytes: int


class Door:
    """The process that starts them, from the side of the tests."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-P", *(words or ("-S", __file__))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, command: list[str], folder: Path, marker: Path, seconds: float = 10.0) -> Outcome:
        """Of a command line, its program included, in that folder; payloads make `marker`."""
        request = {
            "command": command,
            "folder": str(folder),
            "marker": str(marker),
            "seconds": seconds,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)


class Batch(Door):
    """The process that forks for them. It has no other program than the console script."""

    def __init__(self, divisor: int = 1) -> None:
        """`divisor`: what the limits on a file's size and number are divided by."""
        super().__init__(__file__, str(divisor))


def _execute(command: list[str], seconds: float) -> None:
    os.execv(command[0], command)


def _fork(command: list[str], seconds: float) -> None:
    """What `command` does, in this process, and end it."""
    from bncheck.cli import _GARBAGE, run

    assert command[:1] == [*SCRIPT]
    gc.set_threshold(*_GARBAGE)  # as the console script does
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    code = run(command[1:])
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _serve(start: Callable[[list[str], float], None], request: dict[str, Any]) -> Outcome:
    seconds: float = request["seconds"]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.monotonic()
        pid = os.fork()
        if not pid:
            try:
                os.chdir(request["folder"])
                os.environ["BNCHECK_MARKER"] = request["marker"]
                with open(os.devnull) as nothing:
                    for number, stream in enumerate((nothing, out, err)):
                        os.dup2(stream.fileno(), number)
                start(request["command"], seconds)
            finally:
                os._exit(97)
        while True:
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() - began > 4 * seconds:  # the clock ends what waits
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
        said, complained = _text(out), _text(err)
    spent = usage.ru_utime + usage.ru_stime
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code, said, complained, spent, usage.ru_maxrss * 1024)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "surrogateescape")


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
    assert "torch" not in sys.modules
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
    """A forking process where a divisor is given."""
    start = _execute
    for divisor in sys.argv[1:]:
        _divide_limits(int(divisor))
        _warm_up()
        start = _fork
    for line in sys.stdin:
        print(json.dumps(_serve(start, json.loads(line)).__dict__), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
