"""Real processes over gloo: all end with the same bits, and with those of one process."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing.spawn import spawn

from bncheck.core.errors import BncheckError
from bncheck.data import DataOptions, open_data
from bncheck.measuring.cascades import Cascade, Setting, run_cascade
from bncheck.measuring.distributed import Processes, launched_processes

WORLD = 2


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5),
        nn.BatchNorm1d(5),
    )  # fmt: skip


def packed(processes: Processes, poison: int | None = None) -> dict[str, Any]:
    torch.set_num_threads(1)
    x = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 + 1000
    if poison is not None:
        x[poison] = torch.nan
    found: dict[str, Any] = {}
    for cascade in Cascade:
        data = open_data(x, DataOptions(batch_size=27))  # 8 batches: the last round is not full
        seen = run_cascade(model(), data, cascade, Setting(processes=processes))
        found |= {f"{cascade.value} {n}": m.pack() for n, m in seen.moments.items()}
    return found


def work(rank: int, port: int, folder: str, poison: int | None) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(WORLD), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    with launched_processes(60) as processes:
        try:
            np.savez(Path(folder) / f"{rank}.npz", **packed(processes, poison))
        except BncheckError as error:
            (Path(folder) / f"{rank}.txt").write_text(str(error))


def launch(folder: Path, poison: int | None = None) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(work, (port, str(folder), poison), nprocs=WORLD)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    launch(folder)
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(WORLD)]


def test_all_ranks_are_bitwise_equal(results: list[dict[str, Any]]) -> None:
    for name, vector in results[0].items():
        assert results[1][name].tobytes() == vector.tobytes(), name


def test_they_equal_a_single_process(results: list[dict[str, Any]]) -> None:
    alone = packed(Processes())
    assert alone.keys() == results[0].keys()
    for name, vector in alone.items():
        np.testing.assert_allclose(results[0][name], vector, rtol=1e-12, atol=1e-12)


def test_an_error_in_one_process_ends_all(tmp_path: Path) -> None:
    launch(tmp_path, poison=0)
    messages = [(tmp_path / f"{rank}.txt").read_text() for rank in range(WORLD)]
    assert any("holds NaN or infinity" in message for message in messages)
    assert all("NaN" in message for message in messages)
