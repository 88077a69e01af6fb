"""A bncheck that is started already: what asks for it gets a fork of it.

Of the 0.25 s that a process of a command takes, 0.2 s are imports, which are the same every time.
Here a process has made them (all but torch), and each fork of it becomes what the interpreter is
when the console script begins: its words, folder, environment and streams are those of whoever
asks. Tests of how a process starts, or of what its environment does to Python, start a real one.

`Warm.run` asks for a fork; so does the script `Warm.bncheck`, from a shell or from any program.
Protocol, on a Unix socket: a length, with the open ones among the three streams; a literal of
{words, folder, environment, streams, file_bytes}. The answer is one byte, the exit code.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import io
import os
import resource
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_ROOT = Path(__file__).parents[1]
_SAMPLES = _ROOT / "sample_models"

#: Seconds for one fork to end in.
_PATIENCE = 60

#: In the place of the console script. It imports what costs nothing.
_CLIENT = """\
#!{python} -ISE
import _socket, os, sys

def is_open(number):
    try:
        return bool(os.fstat(number))
    except OSError:
        return False

streams = [number for number in range(3) if is_open(number)]
while os.open(os.devnull, os.O_RDWR) < 2:  # or the socket would become one of them
    pass
door = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
door.connect({socket!r})
said = repr(dict(
    words=[os.fsencode(word) for word in {words}], folder=os.getcwdb(),
    environment=dict(os.environb), streams=streams, file_bytes=None,
)).encode()
rights = b"".join(number.to_bytes(4, sys.byteorder) for number in streams)
door.sendmsg([b"%8d" % len(said)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
door.sendall(said)
code = door.recv(1)
sys.exit(code[0] if code else "the fork ended by a signal")
"""
#: The words of the client, and in its last line those of a Python beside it.
_WORDS, _ACTION = '["bncheck", *sys.argv[1:]]', ["-m", "bncheck.cli.action"]
_PYTHON = f"""\
#!/bin/sh
[ "$*" = "-I {" ".join(_ACTION)}" ] && exec "${{0%/*}}/action"
exec {sys.executable} "$@"
"""


class Warm:
    """The process, from the side of the tests."""

    def __init__(self, folder: Path) -> None:
        self._socket = str(folder / "socket")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.warm", self._socket],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            cwd=folder, env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )  # fmt: skip
        self.bncheck = folder / "bncheck"
        for name, text in (
            ("bncheck", self._client(_WORDS)),
            ("action", self._client(repr(_ACTION))),
            ("python", _PYTHON),
        ):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def _client(self, words: str) -> str:
        return _CLIENT.format(python=sys.executable, socket=self._socket, words=words)

    def run(
        self, words: Sequence[str], folder: Path, file_bytes: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`bncheck WORDS` in that folder, where a file may be of so many bytes."""
        return self._run(["bncheck", *words], folder, file_bytes)

    def module(
        self, name: str, words: Sequence[str], folder: Path
    ) -> subprocess.CompletedProcess[str]:
        """`python -m NAME WORDS` in that folder."""
        return self._run(["-m", name, *words], folder)

    def _run(
        self, words: Sequence[str], folder: Path, file_bytes: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        request = {
            "words": [os.fsencode(word) for word in words],
            "folder": os.fsencode(folder),
            "environment": dict(os.environb),
            "streams": [0, 1, 2],
            "file_bytes": file_bytes,
        }
        said = repr(request).encode()
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        with open(os.devnull) as nothing, socket.socket(socket.AF_UNIX) as door:
            door.connect(self._socket)
            streams = [nothing.fileno(), out_end, err_end]
            socket.send_fds(door, [b"%8d" % len(said)], streams)
            door.sendall(said)
            for end in (out_end, err_end):
                os.close(end)
            texts = [_text(out), _text(err)]  # which holds more than a line or two
            code = door.recv(1)
        assert code, texts
        return subprocess.CompletedProcess([*words], code[0], *texts)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)


def forked(
    words: Sequence[str], folder: Path, stdin: str | Path = os.devnull, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`bncheck WORDS` in a fork of this very process: for what needs torch, which is there."""
    request = {
        "words": [b"bncheck", *map(os.fsencode, words)],
        "folder": folder,
        "environment": {
            **os.environb,
            **{k.encode(): os.fsencode(environment[k]) for k in environment},
        },
        "streams": [0, 1, 2],
        "file_bytes": None,
    }
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(_PATIENCE)
        try:
            _become(request, [os.open(stdin, os.O_RDONLY), out_end, err_end])
            os._exit(_main())
        finally:
            os._exit(99)
    for end in (out_end, err_end):
        os.close(end)
    texts = [_text(out), _text(err)]
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return subprocess.CompletedProcess([*words], code, *texts)


def _text(descriptor: int) -> str:
    with open(descriptor, encoding="utf-8", errors="surrogateescape") as stream:
        return stream.read()


def _stream(number: int, mode: str, errors: str) -> IO[str] | None:
    """sys.stdin and its like, as Python makes them."""
    try:
        os.fstat(number)
    except OSError:
        return None
    return open(number, mode, encoding="utf-8", errors=errors, closefd=False)


def _become(request: Mapping[str, Any], streams: Sequence[int]) -> None:
    given = dict(zip(request["streams"], streams, strict=True))
    for number in range(3):
        if number in given:
            os.dup2(given[number], number)
            os.close(given[number])
        else:
            os.close(number)
    sys.stdin = _stream(0, "r", "strict")
    sys.stdout = _stream(1, "w", "strict")
    sys.stderr = _stream(2, "w", "backslashreplace")
    os.chdir(request["folder"])
    os.environb.clear()
    os.environb.update(request["environment"])
    tempfile.tempdir = None
    sys.argv = [os.fsdecode(word) for word in request["words"]]
    if request["file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"],) * 2)


def _main() -> int:
    """The exit code of what `sys.argv` asks for, as the interpreter would give it."""
    code: object = 0
    try:
        if sys.argv[0] == "bncheck":
            from bncheck.cli import main

            main()
        else:
            name, sys.argv = sys.argv[1], sys.argv[1:]
            runpy.run_module(name, run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            code = 120
    assert code is None or isinstance(code, int), code
    return int(code or 0)


def _answer(door: socket.socket) -> None:
    head, streams, _, _ = socket.recv_fds(door, 8, 3)
    said, size = b"", int(head)
    while len(said) < size:
        said += door.recv(size - len(said))
    _become(ast.literal_eval(said.decode()), streams)
    code = _main()
    door.sendall(bytes([code & 0xFF]))


def _warm_up() -> None:
    """Run them here, so that a fork finds what they import and make once (options, patterns)."""
    from bncheck.cli import run

    file, model = str(_SAMPLES / "nan.pt"), str(_SAMPLES / "healthy.onnx")
    reports = [f"--report={name}:{os.devnull}" for name in ("json", "markdown", "sarif", "github")]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for words in (
            ["inspect", file, model, *reports], ["drift", file, file], ["fold", model, "--dry-run"],
            ["compare", model, model], ["export", model, "-o", "x.onnx"], ["rule", "BN101"],
            ["gate"],
        ):  # fmt: skip
            run(words)


def serve(path: str) -> None:
    """Until stdin ends."""
    _warm_up()
    assert "torch" not in sys.modules
    with socket.socket(socket.AF_UNIX) as server, selectors.DefaultSelector() as awaited:
        server.bind(path)
        server.listen()
        print(flush=True)  # noqa: T201
        gc.collect()
        gc.freeze()  # a collection in a fork would copy every page
        for waiting in (server, sys.stdin):
            awaited.register(waiting, selectors.EVENT_READ)
        while sys.stdin not in (found := [key.fileobj for key, _ in awaited.select()]):
            assert server in found
            door, _ = server.accept()
            if not os.fork():
                signal.alarm(_PATIENCE)
                try:
                    _answer(door)
                finally:
                    os._exit(0)
            door.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    with contextlib.suppress(ChildProcessError):
        while os.wait():
            pass


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    serve(sys.argv[1])
