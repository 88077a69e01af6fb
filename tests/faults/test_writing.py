"""Whatever ends a write, the target is the old file or the new one."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.case import SCRIPT
from tests.planted import SAMPLES

#: Command lines that write OUT, and the file that is there before.
COMMANDS = {
    "report": ["inspect", str(SAMPLES / "healthy.pt"), "--report", "json:OUT"],
    "recalibrate": ["recalibrate", str(SAMPLES / "under-warmed-module.pt"), "-o", "OUT"],
    "fold": ["fold", str(SAMPLES / "healthy.onnx"), "-o", "OUT"],
}


def _arguments(name: str, target: Path) -> list[str]:
    return [word.replace("OUT", str(target)) for word in COMMANDS[name]]


def _target(folder: Path, name: str) -> Path:
    (folder / "out").mkdir()
    target = folder / "out" / ("model.onnx" if name == "fold" else "file.json")
    target.write_bytes(b"old")
    return target


@pytest.mark.parametrize("name", COMMANDS)
def test_signals_at_every_step(name: str, tmp_path: Path) -> None:
    target = _target(tmp_path, name)
    command = [sys.executable, "-m", "tests.faults.interrupting", str(target)]
    done = subprocess.run(
        [*command, *_arguments(name, target)], capture_output=True, text=True, timeout=300
    )
    first, *runs = [json.loads(line) for line in done.stdout.splitlines() if line[0] == "{"]
    assert first["old"] != first["new"], done.stderr
    struck = [r for r in runs if r["code"] not in (0, 1, 98)]
    assert len({r["step"] for r in struck}) > 3, runs
    for r in runs:
        assert r["digest"] in first.values(), r
        if r["signal"] == signal.SIGINT:
            assert r["names"] == [target.name], r  # after kill -9 a temporary may stay
    codes = {r["signal"]: {s["code"] for s in struck if s["signal"] == r["signal"]} for r in struck}
    assert codes == {signal.SIGINT: {130}, signal.SIGKILL: {-9}}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(name: str, tmp_path: Path) -> None:
    target = _target(tmp_path, name)

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    command = [*SCRIPT, *_arguments(name, target)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=small, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        f"bncheck: error: {target}: cannot be written (File too large); choose another\n"
    )
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("target", [".", "/proc/x.onnx", "/dev/full", "absent/x.onnx"])
def test_an_impossible_target(name: str, target: str, tmp_path: Path) -> None:
    arguments = _arguments(name, Path(target))
    command = [*SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert target in done.stderr
    assert "bug" not in done.stderr
    assert not list(tmp_path.iterdir())
