"""A long record read as a stream says what it says when it is held in memory as a whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import bncheck
from bncheck.drifting.command import DriftOptions, drift
from bncheck.drifting.report import DriftReport
from bncheck.layers.norm_layer import Assumptions
from bncheck.reporting.documents.movement import figures
from bncheck.reporting.figures import Distributions
from bncheck.series import records
from bncheck.series.alike import RecordReader
from bncheck.series.long import SHOWN
from bncheck.series.snapshot import read_snapshot
from tests.recording.training import Training, net

STEPS = 300


def jumping(training: Training, step: int, x: object) -> object:
    return 3 * x + 2 if step >= 200 else None  # type: ignore[operator]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    Training(steps=STEPS, hook=jumping).run(folder, every=1)  # type: ignore[arg-type]
    return folder


def files(record: Path) -> list[Path]:
    return sorted((record / "snapshots").iterdir())


@pytest.mark.parametrize("reference", ["last", "first", "previous", "file"])
def test_all_snapshots_are_compared_as_in_memory(
    record: Path, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = str(files(record)[150]) if reference == "file" else reference
    streamed = drift([record], DriftOptions(word))
    monkeypatch.setattr(records, "SHOWN", 10**9)
    whole = drift([record], DriftOptions(word))
    assert (streamed.movement.series.long is None, whole.movement.series.long) == (False, None)
    assert len(streamed.movement.snapshots) == len(whole.movement.snapshots) == STEPS
    for name in ("w2", "mean_shift", "log_variance_ratio"):
        one, other = (getattr(report.movement.grid, name) for report in (streamed, whole))
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
    assert streamed.findings == whole.findings != ()
    assert (streamed.notes, streamed.verdict) == (whole.notes, whole.verdict) == ((), "suspect")
    assert streamed.movement.settled == whole.movement.settled


def held(report: DriftReport) -> int:
    return sum(
        state.mean is not None for s in report.movement.snapshots for state in s.states.values()
    )


def test_the_numbers_of_a_few_are_held_and_the_picture_says_so(record: Path) -> None:
    report = bncheck.drift([record])
    assert held(report) <= 2 * (SHOWN + 1)
    (shown,) = [f for f in figures(report.movement) if isinstance(f, Distributions)]
    assert f"{SHOWN} of 300 snapshots are shown" in shown.caption


def test_files_that_are_alike_are_read_as_any_other(record: Path) -> None:
    reader = RecordReader(None, Assumptions())
    for path in files(record)[::60]:
        sooner, other = reader.read(path), read_snapshot(path, None, Assumptions())
        assert (sooner.digests, sooner.training) == (other.digests, other.training)
        assert (sooner.label, sooner.step, sooner.path) == (other.label, other.step, other.path)
        for name, state in other.states.items():
            np.testing.assert_array_equal(sooner.states[name].mean, state.mean)
            assert sooner.states[name].counter == state.counter
    assert reader._kind is not None


@pytest.mark.parametrize("damage", ["cut", "longer", "another header", "no file"])
def test_a_damaged_snapshot_among_many_is_an_error_beside(
    record: Path, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(record, tmp_path / "run")
    path = files(tmp_path / "run")[100]
    data = path.read_bytes()
    made = {
        "cut": data[:-8], "longer": data + b"x" * 8,
        "another header": data.replace(b'"F32"', b'"F3x"', 1),
    }  # fmt: skip
    if damage in made:
        path.write_bytes(made[damage])
    else:
        path.unlink()
    report = bncheck.drift([tmp_path / "run"])
    assert len(report.movement.snapshots) == STEPS - 1
    (error,) = report.errors
    assert path.name in str(error)


def test_layers_of_another_width_in_the_midst_are_refused(record: Path, tmp_path: Path) -> None:
    shutil.copytree(record, tmp_path / "run")
    other = tmp_path / "other"
    Training(net(width=12), steps=1).run(other, every=1)
    shutil.copy(files(other)[0], files(tmp_path / "run")[100])
    with pytest.raises(bncheck.BncheckError, match=r"1[26] channels, and 1[26] in"):
        bncheck.drift([tmp_path / "run"])


def test_an_index_that_lies_about_the_order_is_put_right(record: Path, tmp_path: Path) -> None:
    """The files tell their own steps, and those are believed."""
    shutil.copytree(record, tmp_path / "run")
    index = tmp_path / "run" / "index.jsonl"
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    taken = [line for line in lines if line["kind"] == "snapshot"]
    taken[50]["files"], taken[60]["files"] = taken[60]["files"], taken[50]["files"]
    index.write_text("".join(json.dumps(line) + "\n" for line in lines))
    steps = [s.step for s in bncheck.drift([tmp_path / "run"]).movement.snapshots]
    assert steps == sorted(steps, key=lambda step: step or 0)
    assert len(steps) == STEPS
