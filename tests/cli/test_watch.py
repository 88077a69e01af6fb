"""`bncheck watch`: once off a terminal, rewritten in place on one, 130 for Ctrl-C."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bncheck.cli import run
from tests.networks import SAMPLES
from tests.recording.training import Training

RECORD = SAMPLES / "record"


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of xdist have a width of their own."""
    monkeypatch.setenv("COLUMNS", "100")


def test_off_a_terminal_it_prints_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watch", str(RECORD)]) == 0
    out = capsys.readouterr().out
    assert "step 880, epoch 20; loss 0.003453, learning rate 0.001013; 12 snapshots" in out
    assert re.search(r"^bn4 .* 0\.95 +0\.00$", out, re.MULTILINE)
    assert "\x1b" not in out


def test_now_is_when_a_batch_was_last_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The step that closes a record had no hooks: it was over when it turned out the last."""
    Training(steps=50).run(tmp_path)
    assert run(["watch", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "step 50" in out
    assert re.search(r"^1 +.*\?+ +\d\.\d\d +\d\.\d\d$", out, re.MULTILINE)
    assert out.splitlines()[-2].endswith("? unknown")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watch", str(RECORD), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "bncheck.watch/1"
    assert report["layers"] == ["bn1", "bn2", "bn3", "bn4"]
    assert [len(row) for row in report["w2"]] == [12] * 4
    assert (report["step"], report["findings"], report["series"]) == (880, [], None)


def test_findings_decide_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(RECORD, tmp_path / "run")
    found = {"kind": "finding", "rule": "BN102", "layer": "bn1", "step": 137, "severity": "error"}
    with open(tmp_path / "run" / "index.jsonl", "a") as file:
        file.write(json.dumps(found) + "\n")
    assert run(["watch", str(tmp_path / "run")]) == 1
    assert "bn1: was found at step 137 in training" in capsys.readouterr().out
    assert run(["watch", str(tmp_path / "run"), "--ignore", "BN102"]) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [(["nowhere"], "is not a record"), ([str(SAMPLES)], "is not a record"),
     ([str(RECORD), "--key", "ema"], "no model called 'ema'")],
)  # fmt: skip
def test_mistakes_are_one_line(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["watch", *words]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_on_a_terminal_it_follows_the_record_until_an_interrupt(tmp_path: Path) -> None:
    shutil.copytree(RECORD, tmp_path / "run")
    index = tmp_path / "run" / "index.jsonl"
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(lines[:-1]))
    reports = ["--report", "json:now.json", "-o", "page.html"]
    with _terminal(tmp_path, *reports) as (process, shown):
        wait_for(lambda: b"step 880" not in shown and b"11 snapshots" in shown)
        index.write_text("".join(lines))
        wait_for(lambda: b"step 880" in shown and b"12 snapshots" in shown)
        page = tmp_path / "page.html"
        wait_for(lambda: 'data-seconds="1"' in page.read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert b"Traceback" not in shown
    assert shown.count(b"\x1b[?25h") == 1  # the cursor is shown again
    assert json.loads((tmp_path / "now.json").read_text())["step"] == 880
    assert "data-seconds" not in page.read_text()  # nobody keeps it fresh any more


def test_a_terminal_without_colour_and_unicode_gets_letters(tmp_path: Path) -> None:
    shutil.copytree(RECORD, tmp_path / "run")
    with _terminal(tmp_path, NO_COLOR="1", PYTHONIOENCODING="ascii") as (process, shown):
        wait_for(lambda: b"normalised output" in shown)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert b"bn4    +++   " in shown
    assert shown.isascii()


@contextlib.contextmanager
def _terminal(
    folder: Path, *words: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], bytearray]]:
    """`watch` on a terminal of 100 columns, and what that has shown so far."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    shown = bytearray()

    def read() -> None:
        try:
            while part := os.read(ours, 1 << 16):
                shown.extend(part)
        except OSError:  # the other end is closed
            pass

    threading.Thread(target=read, daemon=True).start()
    command = [sys.executable, "-m", "bncheck", "watch", "run", "--interval", "0.2", *words]
    env = {**os.environ, "TERM": "xterm-256color", **environment}
    process = subprocess.Popen(
        command, cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        yield process, shown
    finally:
        process.kill()
        os.close(ours)


def wait_for(true: object) -> None:
    assert callable(true)
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
