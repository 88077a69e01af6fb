"""Hostile files: refused in a line or read right, quickly, in little memory, nothing executed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bncheck.reporting.formats import Format
from tests.batch import SCRIPT, Batch, Door
from tests.hostile import CASES, PAYLOADS
from tests.hostile.case import Case, saved
from tests.hostile.check import ANNOTATION, check_report, hidden, run_case
from tests.hostile.names import NAMES
from tests.hostile.size import TENTH, a_tenth
from tests.zoo.registry import BUILDERS

#: One of each kind goes through a process of its own, where what it imports, its streams and its
#: memory are what users have; `python -m tests.hostile` does that with all.
THROUGH_THE_DOOR = (
    *("empty-file", "endless-device", "zip-bomb-storage", "payload-newobj-zip", "statistics-nan"),
    *("name-ansi-title", "name-surrogate", "safetensors-overlap", "index-parent"),
    *("onnx-external-traversal", "exported-intact", "distributed-payload-beside-weights"),
    *("repeated-nested-file", "config-pipe", "config-runs-nothing", "baseline-endless"),
    *("cwd-shadow-script", "cwd-shadow-module", "spec-exits", "spec-prints"),
)
_LARGE = [name for name, case in CASES.items() if case.large]
_FORMATS = [format_ for format_ in Format if format_ is not Format.SVG]  # which is drift's alone
#: The others: the same checks, in a fork.
_HERE = [
    name
    for name, case in CASES.items()
    if not (case.door or case.long or case.large or name in THROUGH_THE_DOOR)
]


@pytest.fixture(scope="module")
def batch() -> Iterator[Batch]:
    batch = Batch()
    yield batch
    batch.close()


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.close()


@pytest.fixture(scope="module")
def strict_batch() -> Iterator[Batch]:
    batch = Batch(TENTH)
    yield batch
    batch.close()


@pytest.mark.parametrize("name", _HERE)
def test_case(name: str, batch: Batch, tmp_path: Path) -> None:
    _inspect(CASES[name], batch, tmp_path, most_bytes=_PEAK_BYTES)


@pytest.mark.parametrize("name", _LARGE)
def test_a_tenth_of_a_large_case(name: str, strict_batch: Batch, tmp_path: Path) -> None:
    with a_tenth():
        _inspect(
            CASES[name], strict_batch, tmp_path, seconds=3.0, most_bytes=_PEAK_BYTES_OF_A_TENTH
        )


#: The forking process has imported more than a fresh one does: 50 MiB are its own.
_PEAK_BYTES = 400 << 20
_PEAK_BYTES_OF_A_TENTH = 100 << 20


def _inspect(case: Case, door: Door, folder: Path, **limits: Any) -> None:
    report = folder / "report.json"
    done = run_case(case, folder, door, "--verbose", "--report", f"json:{report}", **limits)
    check_report(report, case, done)


@pytest.mark.parametrize("format_", _FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_names_in_every_format(name: str, format_: Format, batch: Batch, tmp_path: Path) -> None:
    """No format lets a name steer what reads stdout."""
    path = CASES[f"name-{name}"].build(tmp_path)
    command = [*SCRIPT, "inspect", "--format", format_.value, str(path)]
    done = batch.run(command, tmp_path, tmp_path / "marker")
    assert done.code == 1, done.stderr
    assert not hidden(done.stdout)
    assert not any(c in done.stdout for c in ("##[", "##vso["))
    steering = [line for line in done.stdout.splitlines() if line.lstrip().startswith("::")]
    if format_ is Format.GITHUB:  # which is made of remarks
        steering = [line for line in steering if not ANNOTATION.match(line)]
    assert not steering


@pytest.mark.parametrize("name", [name for name in NAMES if name != "megabyte"])
def test_names_in_drift(name: str, batch: Batch, tmp_path: Path) -> None:
    """As in inspect; two sound snapshots of a layer that has such a name, and moved."""
    path, other = (_snapshot(tmp_path / f"{mean}", NAMES[name], mean) for mean in (5, 0))
    for format_ in (Format.TEXT, Format.GITLAB, Format.MARKDOWN):
        command = [*SCRIPT, "drift", "--format", format_.value, str(path), str(other)]
        done = batch.run(command, tmp_path, tmp_path / "marker")
        assert done.code in (0, 1), done.stderr
        assert not hidden(done.stdout + done.stderr)
        lines = (done.stdout + done.stderr).splitlines()
        assert not any(line.lstrip().startswith("::") or "##[" in line for line in lines)


def _snapshot(folder: Path, key: str, mean: float) -> Path:
    folder.mkdir()
    moments = {"running_mean": torch.full((4,), mean), "running_var": torch.ones(4)}
    return saved(folder, {f"{key}.{name}": numbers for name, numbers in moments.items()})


@pytest.mark.parametrize("name", THROUGH_THE_DOOR)
def test_through_the_door(name: str, door: Door, tmp_path: Path) -> None:
    """The console script in a process of its own: time, memory, the folder, the streams."""
    _inspect(CASES[name], door, tmp_path)


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


def test_one_bad_file_among_good_ones(batch: Batch, tmp_path: Path) -> None:
    good = [BUILDERS[name](tmp_path) for name in ("zip-bare", "safetensors-file")]
    bad = CASES["html-page"].build(tmp_path)
    paths = [str(good[0].path), str(bad), str(good[1].path)]
    done = batch.run([*SCRIPT, "inspect", "--json", *paths], tmp_path, tmp_path / "marker")
    report = json.loads(done.stdout)
    assert done.code == 2
    assert [item["path"] for item in report["errors"]] == [str(bad)]
    assert [r["checkpoint"]["path"] for r in report["reports"]] == [paths[0], paths[2]]
    assert str(bad) in done.stderr


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("lie-")])
def test_torch_sees_the_negative_variance_of_a_liar(name: str, tmp_path: Path) -> None:
    state = torch.load(CASES[name].build(tmp_path), weights_only=True)
    state = state.get("state_dict", state)
    variances = [tensor for key, tensor in state.items() if key.endswith("running_var")]
    assert any((variance < 0).all() for variance in variances)
