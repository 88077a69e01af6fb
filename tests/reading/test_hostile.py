"""Hostile files: refused in a line or read right, quickly, in little memory, nothing executed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import zoo
from tests.batch import Batch, Outcome
from tests.hostile import CASES, PAYLOADS

#: Those that also go through a real `python -m bncheck`: one of each exit code and a payload.
THROUGH_THE_REAL_DOOR = (
    "html-page",
    "named-pipe",
    "payload-reduce-zip",
    "statistics-nan",
    "name-of-a-bad-file",
    "zip-cut-at-0.5",
)


@pytest.fixture(scope="module")
def batch() -> Iterator[Batch]:
    batch = Batch()
    yield batch
    batch.close()


def hidden(text: str) -> set[str]:
    """The characters that steer a terminal, a CI runner or the reader's eye."""
    return {
        c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    }


#: No file may make bncheck take more than this; most take 40 MB.
PEAK_BYTES = 1 << 30


def check(done: Outcome, codes: frozenset[int], marker: Path) -> None:
    """What holds for every file whatever it is."""
    assert not marker.exists(), "a payload was executed"
    assert done.code in codes, (done.code, done.seconds, done.stderr[-300:])
    assert done.peak_bytes < PEAK_BYTES, f"{done.peak_bytes >> 20} MiB"
    assert "Traceback" not in done.stderr
    assert "bug in bncheck" not in done.stderr
    assert not hidden(done.stdout)
    assert not hidden(done.stderr)
    lines = done.stderr.splitlines()
    if done.code == 2:
        assert [line[:16] for line in lines] == ["bncheck: error: "]
        assert done.stdout == ""
    assert all(line.startswith("bncheck: ") for line in lines), lines  # no warning of a library
    assert all(len(line) < 6000 for line in [*lines, *done.stdout.splitlines()])


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, batch: Batch, tmp_path: Path) -> None:
    case, marker = CASES[name], tmp_path / "marker"
    folder = tmp_path / "case"
    folder.mkdir()
    path = case.build(folder)
    before = sorted(os.listdir(folder))
    done = batch.run(["inspect", "--verbose", str(path)], marker)
    check(done, case.codes, marker)
    assert sorted(os.listdir(folder)) == before
    if done.code == 2 or (done.seconds > 2 and not case.weights):  # slow ones: once is enough
        return
    as_json = batch.run(["inspect", "--json", str(path)], marker)
    assert as_json.code == done.code
    assert not marker.exists()
    report = json.loads(as_json.stdout, parse_constant=_refuse_constant)
    if case.weights:
        (layer,) = [layer for layer in report["layers"] if layer["name"] == "bn"]
        for role in zoo.ONNX_ROLES:
            numbers = zoo.statistics()[f"bn.{role}"]
            assert layer[role] == {"min": numbers.min().item(), "max": numbers.max().item()}


def _refuse_constant(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


_UNPICKLE = """
import copyreg, os, pickle, sys
copyreg.add_extension("os", "system", 240)
class Unpickler(pickle.Unpickler):
    def persistent_load(self, pid):
        return pid
for path in sys.argv[1:]:
    os.environ["BNCHECK_MARKER"] = path + ".marker"
    try:
        Unpickler(open(path, "rb")).load()
    except Exception:
        pass
"""


def test_payloads_are_live(tmp_path: Path) -> None:
    """Otherwise that no marker appears would prove nothing."""
    paths = [tmp_path / name for name in PAYLOADS]
    for path in paths:
        path.write_bytes(PAYLOADS[path.name])
    subprocess.run([sys.executable, "-c", _UNPICKLE, *map(str, paths)], check=True, timeout=60)
    assert [path.name for path in paths if not Path(f"{path}.marker").exists()] == []


@pytest.mark.parametrize("name", THROUGH_THE_REAL_DOOR)
def test_real_process(name: str, tmp_path: Path) -> None:
    case, marker = CASES[name], tmp_path / "marker"
    folder = tmp_path / "case"
    folder.mkdir()
    command = [sys.executable, "-m", "bncheck", "inspect", str(case.build(folder))]
    environment = {**os.environ, "BNCHECK_MARKER": str(marker)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment)
    check(Outcome(done.returncode, done.stdout, done.stderr, 0.0, 0), case.codes, marker)


def test_one_bad_file_among_good_ones(batch: Batch, tmp_path: Path) -> None:
    good = [zoo.BUILDERS[name](tmp_path) for name in ("zip-bare", "safetensors-file")]
    bad = CASES["html-page"].build(tmp_path)
    paths = [str(good[0].path), str(bad), str(good[1].path)]
    done = batch.run(["inspect", "--json", *paths], tmp_path / "marker")
    report = json.loads(done.stdout)
    assert done.code == 2
    assert [item["path"] for item in report["errors"]] == [str(bad)]
    assert [r["checkpoint"]["path"] for r in report["reports"]] == [paths[0], paths[2]]
    assert str(bad) in done.stderr
