"""Runs bncheck as users do: a new process from the console script, in the folder of the case.

The kernel counts the memory of whoever starts a process into that of the process, so a small one
starts them: this file run as a script, which imports nothing but a few modules of Python itself.
Protocol: a line of JSON {command, folder, marker, seconds} on stdin, a line of JSON on stdout.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time


def _run(command: list[str], folder: str, marker: str, seconds: float) -> dict[str, object]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        pid = os.fork()
        if not pid:
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os.execve(command[0], command, {**os.environ, "BNCHECK_MARKER": marker})
        while True:
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() - start > 4 * seconds:  # the clock ends what waits
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "surrogateescape"))
    return {
        "code": os.waitstatus_to_exitcode(status),
        "stdout": texts[0],
        "stderr": texts[1],
        "seconds": usage.ru_utime + usage.ru_stime,  # what a busy machine does not change
        "peak_bytes": usage.ru_maxrss * 1024,
    }


class Door:
    """The launching process, from the side of the tests."""

    def __init__(self) -> None:
        command = [sys.executable, "-S", "-P", __file__]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self, command: list[str], folder: str, marker: str, seconds: float = 10.0
    ) -> dict[str, object]:
        """code, stdout, stderr, seconds of processor time and peak_bytes of one process."""
        request = {"command": command, "folder": folder, "marker": marker, "seconds": seconds}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, object] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_run(**json.loads(line))), flush=True)  # noqa: T201
