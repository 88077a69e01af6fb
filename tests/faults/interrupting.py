"""Runs a command line once, and strikes a copy of it by every signal at every step.

Usage: python -m tests.faults.interrupting TARGET ARGUMENT...; prints a line of JSON for each copy:
the signal, the step, the exit code, what was said and what then lies in the target's folder; the
first line is what lay there before, the last what the untroubled run leaves. A step is whatever
Python reports to audit hooks that concerns the folder: a file opened, removed, renamed, its mode
changed. At each step the process forks; the fork is struck, and what it did to the folder is
undone. The first import of each library is struck as well, by SIGINT alone.
The arguments `pair` alone write a small ONNX model as two files, as a large one would be.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from bncheck import cli

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
LIBRARIES = ("typer", "rich", "numpy", "pydantic", "onnx", "onnxruntime", "onnxscript", "torch")
_PATIENCE = 60  # seconds for one copy to end in


class Strikes:
    """The audit hook, and what it has to know."""

    def __init__(self, folder: Path, out: int) -> None:
        self.folder, self.out, self.process = folder, out, os.getpid()
        self._aside = Path(tempfile.mkdtemp(dir=folder.parent)) / "copy"
        self._step, self._busy = 0, False
        self._libraries = set(LIBRARIES)

    def hook(self, event: str, details: tuple[object, ...]) -> None:
        if self._busy:
            return
        self._busy = True
        paths = [os.fsdecode(d) for d in details if isinstance(d, (str, bytes, os.PathLike))]
        if any(path.startswith(str(self.folder)) for path in paths):
            self._step += 1
            for number in SIGNALS:
                self._strike(number, f"{self._step} {event}")
        elif event == "import" and paths[0] in self._libraries:
            self._libraries.discard(paths[0])
            self._strike(signal.SIGINT, f"import {paths[0]}")
        self._busy = os.getpid() != self.process  # a struck copy is not struck again

    def end(self) -> None:
        self._busy = True

    def _strike(self, number: signal.Signals, step: str) -> None:
        if os.getpid() != self.process:
            return
        shutil.copytree(self.folder, self._aside, copy_function=os.link)
        with tempfile.TemporaryFile("w+") as log:
            pid = os.fork()
            if not pid:
                os.dup2(log.fileno(), 2)
                signal.alarm(_PATIENCE)
                os.kill(os.getpid(), number)
                return
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            log.seek(0)
            said = log.read()
        self.say(signal=number, step=step, code=code, said=said, state=state(self.folder))
        for entry in self.folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        shutil.copytree(self._aside, self.folder, copy_function=os.link, dirs_exist_ok=True)
        shutil.rmtree(self._aside)

    def say(self, **result: object) -> None:
        os.write(self.out, f"{json.dumps(result)}\n".encode())


def state(folder: Path) -> dict[str, str]:
    """The files' names and digests."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_pair(target: Path) -> int:
    from bncheck.runtime.weights import Weights
    from bncheck.shipping.writing import write
    from tests.zoo.onnx_models import onnx_model, onnx_norm, onnx_values

    values = {name: value.repeat(100) for name, value in onnx_values("bn").items()}
    write(onnx_model([onnx_norm("bn", "x", "y")], values), Weights(), target, limit=0)
    return 0


def struck(target: Path, arguments: list[str]) -> None:
    strikes = Strikes(target.parent, os.dup(1))
    strikes.say(state=state(target.parent))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["bncheck", *arguments]
    if arguments == ["pair"]:
        cli._dispatch = lambda arguments: write_pair(target)
    sys.addaudithook(strikes.hook)
    code = 97
    try:
        cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        strikes.end()
        if os.getpid() != strikes.process:
            sys.stderr.flush()
            os._exit(code)
    strikes.say(code=code, state=state(target.parent))


if __name__ == "__main__":
    struck(Path(sys.argv[1]), sys.argv[2:])
