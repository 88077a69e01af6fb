"""Runs a command line again and again, and is struck by a signal at every step of its writing.

Usage: python -m tests.faults.interrupting TARGET ARGUMENT...; prints a line of JSON for each run:
the signal, the step, the exit code, the digest of the target and the names beside it. A step is
whatever Python reports to audit hooks that concerns the target's folder: a file opened, removed,
renamed, its mode changed. Each run is a fork, so that imports cost once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from bncheck.cli import run

_MOST_STEPS = 40


def _struck(arguments: list[str], folder: str, step: int, number: int) -> int:
    """One run in a fork; the code, negative for a signal that ended it."""
    pid = os.fork()
    if not pid:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        steps = 0

        def hook(event: str, details: tuple[object, ...]) -> None:
            nonlocal steps
            paths = [d for d in details if isinstance(d, (str, bytes, os.PathLike))]
            if any(os.fsdecode(path).startswith(folder) for path in paths):
                steps += 1
                if steps == step:
                    os.kill(os.getpid(), number)

        sys.addaudithook(hook)
        code = 97
        try:
            code = run(arguments)
        finally:
            os._exit(98 if code == 0 and steps < step else code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(target: Path, arguments: list[str]) -> None:
    """Strike at step 1, 2... until a run ends before it is struck."""
    old = target.read_bytes()
    run(arguments)  # imports everything, and shows what the new file is
    new = target.read_bytes()
    say(json.dumps({"old": _digest(old), "new": _digest(new)}))
    for number in (signal.SIGINT, signal.SIGKILL):
        for step in range(1, _MOST_STEPS):
            shutil.rmtree(target.parent)
            target.parent.mkdir()
            target.write_bytes(old)
            code = _struck(arguments, str(target.parent), step, number)
            names = sorted(os.listdir(target.parent))
            found = _digest(target.read_bytes()) if target.exists() else None
            result = {"signal": number, "step": step, "code": code, "digest": found, "names": names}
            say(json.dumps(result))
            if code in (98, 1, 0):
                break


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


main(Path(sys.argv[1]), sys.argv[2:])
