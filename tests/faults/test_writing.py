"""Whatever ends a write, the target is the old file or the new one."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.faults.interrupting import struck
from tests.launching import forked
from tests.planted import ROOT, SAMPLES
from tests.warm import Warm

GATE = """
[tool.bncheck.models.net]
checkpoint = "CHECKPOINT"
""".replace("CHECKPOINT", str(SAMPLES / "healthy.pt"))
_DRIFT = ["drift", *(str(path) for path in sorted((SAMPLES / "snapshots").iterdir())[:2])]
_MODULE = str(SAMPLES / "under-warmed-module.pt")
#: Command lines that write OUT, and the file that is there before.
COMMANDS = {
    "report": ["inspect", str(SAMPLES / "healthy.pt"), "--report", "json:OUT"],
    "baseline": ["inspect", str(SAMPLES / "nan.pt"), "--write-baseline", "OUT"],
    "html": [*_DRIFT, "--report", "html:OUT"],
    "svg": [*_DRIFT, "--format", "svg", "-o", "OUT"],
    "gate": ["gate", "--config", "gate.toml", "-o", "OUT", "--json"],
    "recalibrate": ["recalibrate", _MODULE, "-o", "OUT"],
    "fold": ["fold", str(SAMPLES / "healthy.onnx"), "-o", "OUT"],
    "export": ["export", str(SAMPLES / "healthy.pt2"), "-o", "OUT"],
}

#: One command for each piece of code that writes: html and gate write as report and svg do, and
#: export as fold, after seconds of torch.
WRITERS = ("report", "baseline", "svg", "recalibrate", "fold")


def _arguments(name: str, target: Path) -> list[str]:
    return [word.replace("OUT", str(target)) for word in COMMANDS[name]]


def _target(folder: Path, name: str) -> Path:
    (folder / "out").mkdir()
    (folder / "gate.toml").write_text(GATE)
    model = "model.onnx"
    names = {"fold": model, "export": model, "pair": model, "html": "file.html", "svg": "file.svg"}
    target = folder / "out" / names.get(name, "file.json")
    target.write_bytes(b"old")
    return target


def _struck(target: Path, arguments: list[str]) -> list[Any]:
    if arguments[0] == "export":
        return _struck_here(target, arguments)
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults.interrupting", str(target)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *arguments],
        capture_output=True, text=True, timeout=300, env=environment, cwd=target.parent.parent,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _struck_here(target: Path, arguments: list[str]) -> list[Any]:
    """In a fork, which has torch: importing it takes seconds, and test_interrupts strikes that."""
    said = target.parent.parent / "said"
    process = forked(_striking, target, arguments, said=said)
    process.join(300)
    assert process.exitcode == 0, (said / "err").read_text()
    return [json.loads(line) for line in (said / "out").read_text().splitlines()]


def _striking(target: Path, arguments: list[str]) -> None:
    warnings.simplefilter("ignore")
    os.chdir(target.parent.parent)
    struck(target, arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_signals_at_every_step(name: str, tmp_path: Path) -> None:
    target = _target(tmp_path, name)
    first, *runs, last = _struck(target, _arguments(name, target))
    assert first["state"] != last["state"]
    assert len({r["step"] for r in runs}) > 3, runs
    for r in runs:
        found = {
            k: v for k, v in r["state"].items() if r["signal"] != signal.SIGKILL or k[0] != "."
        }
        assert found in (first["state"], last["state"]), r
        assert (r["code"], r["said"]) == ENDS[r["signal"]], r


#: The exit code, and what is said.
ENDS = {
    signal.SIGINT: (130, "bncheck: interrupted\n"),
    signal.SIGTERM: (143, "bncheck: terminated\n"),
    signal.SIGKILL: (-9, ""),
}


def test_a_model_in_two_files_is_never_beside_the_data_of_another(tmp_path: Path) -> None:
    target = _target(tmp_path, "pair")
    data = target.with_name("model.onnx.data")
    data.write_bytes(b"old data")
    old = _digests(target, data)
    _, *runs, last = _struck(target, ["pair"])
    new = last["state"]
    assert sorted(new) == ["model.onnx", "model.onnx.1.data"]
    assert {r["state"]["model.onnx"] for r in runs} == {old["model.onnx"], new["model.onnx"]}
    for r in runs:
        whole = old if r["state"]["model.onnx"] == old["model.onnx"] else new
        assert whole.items() <= r["state"].items(), r
        assert (r["code"], r["said"]) == ENDS[r["signal"]], r


def _digests(*paths: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(name: str, tmp_path: Path, warm: Warm) -> None:
    target = _target(tmp_path, name)
    done = warm.run(_arguments(name, target), tmp_path, file_bytes=100)
    assert done.returncode == 2
    assert done.stderr == (
        f"bncheck: error: {target}: cannot be written (File too large); choose another\n"
    )
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *itertools.product(WRITERS, ("/proc/x.onnx", "absent/x.onnx")),  # found late, and early
        *itertools.product(("report", "fold"), (".", "/dev/full")),
        ("export", "absent/x.onnx"),
    ],
)
def test_an_impossible_target(name: str, target: str, tmp_path: Path, warm: Warm) -> None:
    (tmp_path / "gate.toml").write_text(GATE)
    done = warm.run(_arguments(name, Path(target)), tmp_path)
    assert done.returncode == 2
    assert not done.stdout or name == "baseline"  # which is written last
    assert done.stderr.count("\n") == 1
    assert target in done.stderr
    assert "bug" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["gate.toml"]
