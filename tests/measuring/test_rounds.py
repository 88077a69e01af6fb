"""Whose turn a batch is, with two ranks in threads."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from bncheck.data import Batch, Batches, open_data
from bncheck.measuring.distributed import Processes
from bncheck.measuring.messages import Parts, SharedError
from bncheck.measuring.rounds import Share, in_rounds
from bncheck.measuring.wire import Wire


def data(*sizes: int, first: float = 0.0) -> Batches:
    """Batches of these sizes, each filled with its number."""
    return open_data([torch.full((size, 2), first + place) for place, size in enumerate(sizes)])


def dealt(given: Sequence[Batches]) -> tuple[list[list[int]], list[Processes]]:
    """The numbers of the batches that each rank worked on, seen to be gathered in rounds."""
    pair = socket.socketpair()
    wires = (Wire(0, {1: pair[0]}, 10.0), Wire(1, {0: pair[1]}, 10.0))
    ranks = [Processes(rank, 2, wire) for rank, wire in enumerate(wires)]
    worked: list[list[int]] = [[], []]

    def work(rank: int) -> list[list[int]]:
        def on(number: int, batch: Batch) -> Parts:
            worked[rank].append(number)
            return {"": np.array([number])}

        rounds = in_rounds(ranks[rank], Share(ranks[rank], given[rank]), on, "work")
        return [[int(c.parts[""][0]) for c in round_] for round_ in rounds]

    with ThreadPoolExecutor(2) as pool:
        seen = [future.result() for future in [pool.submit(work, rank) for rank in range(2)]]
    assert seen[0] == seen[1]
    assert sorted(n for round_ in seen[0] for n in round_) == sorted(worked[0] + worked[1])
    return worked, ranks


def test_batches_are_dealt_in_turn() -> None:
    assert dealt([data(4, 4, 4, 4, 4)] * 2)[0] == [[0, 2, 4], [1, 3]]


def test_an_empty_batch_takes_no_turn() -> None:
    """Dealt by number, batches 0 and 2 were both rank 0's in one round, and 2 was lost."""
    assert dealt([data(4, 0, 4, 4)] * 2)[0] == [[0, 3], [2]]


def test_a_rank_with_fewer_batches_takes_part_to_the_end() -> None:
    worked, ranks = dealt([data(4, 4, 4, 4, 4, 4), data(4, 4)])
    assert worked == [[0, 2, 4], [1]]
    assert any("6, 2 batches" in note for note in ranks[0].notes)


def test_ranks_with_other_batches_work_on_all_of_their_own() -> None:
    worked, ranks = dealt([data(4, 4, 4), data(4, first=7.0)])
    assert worked == [[0, 1, 2], [0]]
    assert all(rank.own_data for rank in ranks)


def test_a_file_that_differs_in_its_last_batch_is_refused() -> None:
    first, second = data(4, 4, 4), data(4, 4, 3)
    with pytest.raises(SharedError, match="holds other data for rank 1"):
        dealt([replace(first, fixed=True), replace(second, fixed=True)])
