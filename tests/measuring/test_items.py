"""Items that ranks take in turn (Processes.dealt), with two ranks in threads."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bncheck.core.errors import BncheckError
from bncheck.measuring.distributed import Processes
from bncheck.measuring.messages import LostRankError, Parts, SharedError
from bncheck.measuring.wire import Wire

Work = Callable[[int], Parts]


def two() -> list[Processes]:
    pair = socket.socketpair()
    wires = (Wire(0, {1: pair[0]}, 10.0), Wire(1, {0: pair[1]}, 10.0))
    return [Processes(rank, 2, wire) for rank, wire in enumerate(wires)]


def squares(worked: list[int]) -> Work:
    """Nothing for 3, else arrays whose order matters."""

    def work(item: int) -> Parts:
        worked.append(item)
        return {} if item == 3 else {"z": np.array([item]), "a b": np.array([item**2])}

    return work


def outcomes(
    ranks: Sequence[Processes], items: Sequence[Sequence[int]], works: Sequence[Work]
) -> list[list[Parts] | BaseException]:
    """What each rank is given, or what it raises."""

    def act(rank: int) -> list[Parts]:
        try:
            with ranks[rank].together("the run"):
                return ranks[rank].dealt("squares", items[rank], works[rank])
        finally:
            wire = ranks[rank].wire
            assert wire is not None
            wire.close()

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(act, rank) for rank in range(2)]
        return [future.exception() or future.result() for future in futures]


def plain(given: list[Parts] | BaseException) -> list[list[tuple[str, int]]]:
    assert isinstance(given, list)
    return [[(name, int(array[0])) for name, array in parts.items()] for parts in given]


@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_every_item_is_worked_on_once_and_all_ranks_are_given_all(number: int) -> None:
    worked: list[list[int]] = [[], []]
    found = outcomes(two(), [range(number)] * 2, [squares(own) for own in worked])
    alone = Processes().dealt("squares", range(number), squares([]))
    assert plain(found[0]) == plain(found[1]) == plain(alone)
    assert worked == [[*range(0, number, 2)], [*range(1, number, 2)]]


@pytest.mark.parametrize("differently", ["own_data", "uneven"])
def test_ranks_with_other_data_work_on_all_and_need_not_agree(differently: str) -> None:
    ranks = two()
    worked: tuple[list[int], list[int]] = ([], [])
    for rank in ranks:
        setattr(rank, differently, True)
    outcomes(ranks, [range(2), range(5)], [squares(own) for own in worked])
    assert worked == ([0, 1], [0, 1, 2, 3, 4])


def test_ranks_with_other_items_say_so() -> None:
    for error in outcomes(two(), [range(2), range(3)], [squares([])] * 2):
        assert isinstance(error, SharedError)
        assert "rank 1 is at 'squares, 3 of them' and rank 0 at 'squares, 2 of them'" in str(error)


@pytest.mark.parametrize("failing", [0, 1])
def test_what_one_rank_raises_ends_both(failing: int) -> None:
    def raises(_: int) -> Parts:
        raise BncheckError("overflows", "scale it")

    works = [raises if rank == failing else squares([]) for rank in range(2)]
    for error in outcomes(two(), [range(4)] * 2, works):
        assert isinstance(error, SharedError)
        assert "overflows" in str(error)


@pytest.mark.parametrize("gone", [0, 1])
def test_a_rank_that_dies_at_an_item_is_named_by_the_other(gone: int) -> None:
    ranks = two()

    def dies(_: int) -> Parts:
        wire = ranks[gone].wire
        assert wire is not None
        wire.close()
        raise KeyboardInterrupt

    works = [dies if rank == gone else squares([]) for rank in range(2)]
    error = outcomes(ranks, [range(4)] * 2, works)[1 - gone]
    assert isinstance(error, LostRankError)
    assert f"rank {gone} ended without a message" in str(error)
