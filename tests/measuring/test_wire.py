"""Three ranks in threads: whoever fails is named alike by all others."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping

import pytest

from bncheck.measuring.messages import LostRankError
from bncheck.measuring.wire import Wire

TIMEOUT = 0.5


def wires(timeouts: tuple[float, float, float] = (TIMEOUT,) * 3) -> list[Wire]:
    first, second = socket.socketpair(), socket.socketpair()
    hub = Wire(0, {1: first[0], 2: second[0]}, timeouts[0])
    return [hub, Wire(1, {0: first[1]}, timeouts[1]), Wire(2, {0: second[1]}, timeouts[2])]


def together(acts: Mapping[int, Callable[[], object]]) -> dict[int, object]:
    """What the ranks' acts return or raise, done at the same time."""
    found: dict[int, object] = {}

    def act(rank: int) -> None:
        try:
            found[rank] = acts[rank]()
        except LostRankError as error:
            found[rank] = error.sentence

    threads = [threading.Thread(target=act, args=(rank,)) for rank in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    return found


def gathers(wire: Wire, message: bytes = b"") -> Callable[[], object]:
    return lambda: wire.gather(message)


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_all_get_all_messages_in_the_order_of_ranks(size: int) -> None:
    ranks = wires((10.0,) * 3)
    messages = [bytes([rank]) * (size + rank) for rank in range(3)]
    found = together({r: gathers(ranks[r], messages[r]) for r in range(3)})
    assert found == dict.fromkeys(range(3), messages)


@pytest.mark.parametrize("silent", range(3))
def test_a_silent_rank_is_named_by_all_others(silent: int) -> None:
    ranks = wires()
    found = together({r: gathers(ranks[r]) for r in range(3) if r != silent})
    assert set(found.values()) == {f"rank {silent} did not answer within 0.5 s"}
    assert len(found) == 2


def test_who_waits_longest_names_who_is_missing_not_who_waits_as_well() -> None:
    """Rank 1's patience ends first, while rank 0 waits for rank 2."""
    ranks = wires((30.0, TIMEOUT, 30.0))
    found = together({0: gathers(ranks[0]), 1: gathers(ranks[1])})
    assert found == dict.fromkeys(range(2), "rank 2 did not answer within 0.5 s")


@pytest.mark.parametrize("gone", range(3))
def test_a_rank_that_is_gone_is_named_by_all_others(gone: int) -> None:
    ranks = wires((30.0,) * 3)
    ranks[gone].close()
    found = together({r: gathers(ranks[r]) for r in range(3) if r != gone})
    assert set(found.values()) == {f"rank {gone} ended without a message"}


@pytest.mark.parametrize("failing", range(3))
def test_the_last_words_of_a_rank_reach_all_others(failing: int) -> None:
    ranks = wires((30.0,) * 3)

    def fail() -> None:
        ranks[failing].fail("the last words")
        ranks[failing].close()

    acts: dict[int, Callable[[], object]] = {r: gathers(ranks[r]) for r in range(3)}
    found = together({**acts, failing: fail})
    del found[failing]
    assert set(found.values()) == {"the last words"}
    assert len(found) == 2


def test_what_is_known_of_the_others_can_be_asked_without_waiting() -> None:
    first, second, _ = wires((30.0,) * 3)
    assert first.lost() is None
    second.close()
    error = first.lost()
    assert error is not None
    assert error.sentence == "rank 1 ended without a message"


def test_a_length_that_no_message_has_is_refused() -> None:
    ranks = wires((30.0,) * 3)
    raw = ranks[1]._peers[0]
    raw.sendall(b"m" + (1 << 60).to_bytes(8))
    found = together({0: gathers(ranks[0])})
    assert found == {0: "rank 1 ended without a message"}
