"""Real processes: all end with the same, and where one fails, all fail in one line.

One launch goes through the scenarios of ranks.py; two more have a rank that is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bncheck.cli import main as console_script
from bncheck.cli import run
from bncheck.measuring.distributed import Processes
from tests.launching import WORLD, forked, launched
from tests.measuring.ranks import (
    BATCH,
    BATCH_OF_FAR,
    REPORT,
    counted,
    inspect,
    main,
    packed,
    scenarios,
    searched,
)
from tests.planted import SAMPLES

Told = dict[str, list[dict[str, Any]]]


def free_ports(number: int) -> list[str]:
    """Below those that the system gives to whoever asks for any, each worker's apart."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    first = 20_000 + 1500 * worker + os.getpid() % 1000
    found: list[str] = []
    for port in range(first, first + 500):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(str(port))
        if len(found) == number:
            return found
    raise AssertionError("no ports are free")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    ports = free_ports(len(scenarios()) + 1)
    said = folder / "said"
    process = forked(launched, main, folder, ports, said=said)
    process.join(180)
    assert process.exitcode == 0, (said / "err").read_text()
    return folder


@pytest.fixture(scope="module")
def told(folder: Path) -> Told:
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]
    return {name: [rank[name] for rank in ranks] for name in ranks[0]}


def one_line(rank: dict[str, Any]) -> str:
    """What a rank said that ended with an error: one line, and no file."""
    assert rank["code"] == 2
    assert rank["out"] == ""
    assert rank["files"] == []
    (line,) = rank["err"].splitlines()
    assert "this is a bug" not in line
    assert isinstance(line, str)
    return line


def test_all_ranks_are_bitwise_equal(folder: Path) -> None:
    first, second = (np.load(folder / f"{rank}.npz") for rank in range(WORLD))
    for name, vector in first.items():
        assert second[name].tobytes() == vector.tobytes(), name


def test_they_equal_a_single_process(folder: Path) -> None:
    alone = packed(Processes()) | searched(Processes())[0]
    shared = np.load(folder / "0.npz")
    assert alone.keys() == set(shared)
    for name, vector in alone.items():
        np.testing.assert_allclose(shared[name], vector, rtol=1e-12, atol=1e-12)


def test_what_looks_for_causes_is_run_once(folder: Path) -> None:
    """Every rank runs its share of it; what a network calls, which says what to exchange, each."""
    alone = searched(Processes())[1]
    first, second = (json.loads((folder / f"{r}-samples.json").read_text()) for r in range(WORLD))
    called = {"code": BATCH_OF_FAR}
    for question, samples in alone.items():
        again = called.get(question, 0)
        assert first[question] + second[question] == samples + again, question
        assert 0 < second[question] <= first[question] < samples, question


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("", 3),
        ("measures sorted classes", 3),
        ("measures the wrong scale", 2),
        ("measures a series", 4),
    ],
)
def test_rank_0_reports_what_one_process_reports(
    name: str, again: int, told: Told, folder: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    first, second = told[name]
    monkeypatch.chdir(folder / "1")
    monkeypatch.setattr(sys, "path", list(sys.path))
    with counted() as sent:
        assert run(scenarios()[name]) == first["code"] == second["code"]
    # Both run the first batch for its pivots, and to see which calls other code would exchange.
    assert first["sent"] + second["sent"] == sum(sent) + again * BATCH
    alone, shared = json.loads(capsys.readouterr().out), json.loads(first["out"])
    assert close(alone, shared)
    assert (first["files"], second["files"], second["out"]) == (["report.json"], [], "")
    (folder / "1" / "report.json").unlink()


def close(one: Any, other: Any) -> bool:
    """Equal as data, numbers up to the rounding of another order of threads."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.isclose(one, other, rtol=1e-5, atol=1e-7))
    return bool(one == other)


def test_batches_that_run_out_on_one_rank_are_dealt_with(told: Told) -> None:
    """Rank 0 has ten and measures five of them, rank 1 has three and measures the second."""
    first, second = told["has fewer batches"]
    assert first["code"] == second["code"] == 1
    assert "the ranks read 10, 3 batches" in first["err"]
    assert json.loads(first["out"])["summary"]["samples"] == 6 * 64


def test_with_a_distributed_sampler_each_rank_measures_its_own(told: Told) -> None:
    first, second = told["has a sampler"]
    assert first["code"] == second["code"] == 1
    assert "each measured all of its own" in first["err"]
    assert json.loads(first["out"])["summary"]["samples"] == 600


FAILURES = {
    "raises": ("rank 1 failed (ValueError: the disk is full", "ValueError: the disk is full"),
    "has no metric": ("rank 1 failed (ValueError: no metric here", "ValueError: no metric here"),
    "runs other code": ("rank 1 failed (layer bn1 sees other values", "layer bn1 sees other"),
    "has another architecture": ("rank 1 differs from rank 0 in the model's architecture",) * 2,
    "has another dtype": ("rank 1 differs from rank 0 in the dtypes of the weights (float64",) * 2,
    "holds other weights": ("rank 1 differs from rank 0 in the weights",) * 2,
    "holds another file": ("rank 1 differs from rank 0 in what the files hold",) * 2,
    "reads other data": ("mixed.npz: holds other data for rank 1 than for rank 0",) * 2,
    "has another option": ("rank 1 differs from rank 0 in --batch-size (32, and rank 0 64)",) * 2,
    "has another key": ("rank 1 differs from rank 0 in --key (ema, and rank 0 none)",) * 2,
    "has another version": ("rank 1 differs from rank 0 in the version of bncheck (0.0.1",) * 2,
    "sleeps": ("rank 1 did not answer within 2 s",) * 2,
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_rank_fails_and_all_say_so(name: str, told: Told) -> None:
    for rank, sentence in zip(told[name], FAILURES[name], strict=True):
        assert sentence in one_line(rank)


def test_preparations_that_one_rank_cannot_try_are_left_out(told: Told) -> None:
    first, second = told["rejects what it tries"]
    assert first["code"] == second["code"] == 1
    assert json.loads(first["out"])["summary"] == json.loads(told[""][0]["out"])["summary"]


@pytest.mark.parametrize("name", ["is interrupted", "is interrupted while searching"])
def test_an_interrupted_rank_ends_the_others(name: str, told: Told) -> None:
    first, second = told[name]
    assert "rank 1 was interrupted" in one_line(first)
    assert second["code"] == 130


def test_the_timeout_is_kept(told: Told) -> None:
    assert told["sleeps"][0]["seconds"] < 4.5


def test_a_file_that_one_rank_lacks_is_told_and_the_others_reported(told: Told) -> None:
    first, second = told["lacks a file"]
    assert "only.pt: rank 1 failed (does not exist)" in first["err"]
    assert "only.pt: does not exist" in second["err"]
    assert first["code"] == second["code"] == 2
    assert [report["checkpoint"]["path"] for report in json.loads(first["out"])["reports"]] == [
        "healthy.pt"
    ]


def test_rank_0_writes(told: Told) -> None:
    first, second = told["writes"]
    assert (first["code"], first["files"]) == (0, ["out.pt"])
    assert (second["code"], second["files"], second["err"]) == (0, [], "")


def test_a_rank_that_is_killed_under_torchrun(tmp_path: Path) -> None:
    said = tmp_path / "said"
    process = forked(launched, typed_in, tmp_path, said=said)
    process.join(60)
    assert process.exitcode == 1
    lines = (said / "err").read_text().splitlines()
    assert [line for line in lines if line.startswith("bncheck: ")] == [
        (
            "bncheck: error: rank 1 ended without a message; it was killed or crashed; see its "
            "own output"
        )
    ]
    assert not (tmp_path / REPORT[1].partition(":")[2]).exists()


def typed_in(folder: Path) -> None:
    """The console script, of which rank 1 is killed."""
    os.environ["MODE"] = "is killed"
    os.chdir(folder)
    sys.argv = ["bncheck", *inspect(file=str(SAMPLES / "stale.pt"))]
    console_script()


def test_a_rank_0_that_is_killed_without_a_launcher(tmp_path: Path) -> None:
    """It kept the store where the ranks met."""
    (port,) = free_ports(1)
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    (tmp_path / "killed.py").write_text(
        "import os, torch\n"
        "def batches():\n"
        "    for number in range(10):\n"
        "        if number == 3 and os.environ['RANK'] == '0':\n"
        "            os.kill(os.getpid(), 9)\n"
        "        yield torch.rand(64, 1, 8, 8)\n"
    )
    said = [tmp_path / str(rank) for rank in range(WORLD)]
    ranks = [
        forked(inspect_in, tmp_path, place | {"RANK": str(rank)}, said=said[rank])
        for rank in range(WORLD)
    ]
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [-9, 2]
    assert (said[1] / "out").read_text() == ""
    (line,) = (said[1] / "err").read_text().splitlines()
    assert "rank 0 ended without a message" in line


def inspect_in(folder: Path, place: dict[str, str]) -> None:
    os.environ.update(place)
    os.chdir(folder)
    model = f"{SAMPLES / 'nets.py'}:DigitNet"
    words = ["inspect", str(SAMPLES / "stale.pt"), "--model", model, "--data", "killed.py:batches"]
    sys.exit(run(words))
