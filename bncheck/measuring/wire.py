"""Messages between the processes that torchrun started: bytes, deadlines, and who is missing.

Rank 0 is the hub: everyone sends it a message and gets all of them back, in the order of ranks. A
socket tells at once when its other end dies, and a deadline names the rank that is silent; neither
can be had of a collective, which ends in a page of the transport's own words or not at all.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Final

from bncheck.measuring.messages import LostRankError

_MESSAGE, _WAITING, _FAILED = b"m", b"w", b"f"
_HEAD: Final = struct.Struct("!cQ")
_LENGTH: Final = struct.Struct("!Q")
#: A round's moments of the largest networks take some 100 MB.
_MOST_BYTES: Final = 1 << 32
#: Seconds for telling the others of a failure, which may not keep this process from ending.
PATIENCE: Final = 1.0


class Wire:
    """The connections of one rank: to all others for rank 0, to rank 0 for the others."""

    def __init__(self, rank: int, peers: Mapping[int, socket.socket], timeout: float) -> None:
        self.rank = rank
        self._peers = dict(peers)
        self._timeout = timeout

    def gather(self, message: bytes) -> list[bytes]:
        """Every rank's message, in the order of ranks. Raises LostRankError."""
        return self._collect(message) if self.rank == 0 else self._ask(message)

    def fail(self, sentence: str) -> None:
        """Tell the others, who wait for this rank, why it ends."""
        for rank in self._peers:
            self._tell(rank, sentence)

    def lost(self) -> LostRankError | None:
        """Who is known to be gone, without waiting for anyone."""
        try:
            for rank in self._peers:
                while self._wait([self._peers[rank]], 0.0):
                    self._receive(rank)
        except LostRankError as error:
            return error
        return None

    def close(self) -> None:
        """Hang up, also where a forked loader holds a copy of the connection.

        What was not read goes first, or it would take back what was sent last.
        """
        for peer in self._peers.values():
            with contextlib.suppress(OSError):
                peer.settimeout(0)
                while peer.recv(1 << 16):
                    pass
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_WR)
            peer.close()

    def _collect(self, mine: bytes) -> list[bytes]:
        messages = {0: mine}
        until = time.monotonic() + self._timeout
        while missing := [rank for rank in self._peers if rank not in messages]:
            for rank in messages.keys() - {0}:
                self._send(rank, _WAITING, str(missing[0]).encode())
            # Whoever has answered says more only where it fails, or has waited long enough.
            ready = self._wait(list(self._peers.values()), until)
            if not ready:
                raise self._silent(missing[0])
            for rank, peer in self._peers.items():
                if peer in ready:
                    messages[rank] = self._receive(rank)[1]
        ordered = [messages[rank] for rank in sorted(messages)]
        everything = b"".join(_LENGTH.pack(len(part)) + part for part in ordered)
        for rank in self._peers:
            self._send(rank, _MESSAGE, everything)
        return ordered

    def _ask(self, mine: bytes) -> list[bytes]:
        self._send(0, _MESSAGE, mine)
        missing = 0
        until = time.monotonic() + self._timeout
        while self._wait([self._peers[0]], until):
            kind, body = self._receive(0)
            if kind == _MESSAGE:
                return list(_split(body))
            missing = int(body)
        raise self._silent(missing)

    @staticmethod
    def _wait(sockets: list[socket.socket], until: float) -> list[object]:
        from multiprocessing.connection import wait  # which a process alone has no use for

        return list(wait(sockets, max(0.0, until - time.monotonic())))

    def _send(self, rank: int, kind: bytes, body: bytes) -> None:
        peer = self._peers[rank]
        try:
            peer.settimeout(self._timeout)
            peer.sendall(_HEAD.pack(kind, len(body)) + body)
        except TimeoutError:
            raise self._silent(rank) from None
        except OSError:
            self._last_words(rank)
            raise self._gone(rank) from None

    def _receive(self, rank: int) -> tuple[bytes, bytes]:
        try:
            self._peers[rank].settimeout(self._timeout)
            kind, body = _frame(self._peers[rank])
        except TimeoutError:
            raise self._silent(rank) from None
        except OSError:
            raise self._gone(rank) from None
        if kind == _FAILED:
            raise self._lost(body.decode(errors="replace"), "see the output of that rank", but=rank)
        return kind, body

    def _last_words(self, rank: int) -> None:
        """What a rank that can no longer be sent anything said before it went."""
        while self._wait([self._peers[rank]], time.monotonic() + PATIENCE):
            self._receive(rank)

    def _silent(self, rank: int) -> LostRankError:
        sentence = f"rank {rank} did not answer within {self._timeout:g} s"
        return self._lost(sentence, "see what it waits for, or give a longer --timeout")

    def _gone(self, rank: int) -> LostRankError:
        sentence = f"rank {rank} ended without a message"
        return self._lost(sentence, "it was killed or crashed; see its own output", but=rank)

    def _lost(self, sentence: str, hint: str, but: int = -1) -> LostRankError:
        """An error that all ranks tell alike."""
        for rank in self._peers:
            if rank != but:
                self._tell(rank, sentence)
        return LostRankError(sentence, hint)

    def _tell(self, rank: int, sentence: str) -> None:
        body = sentence.encode(errors="replace")
        with contextlib.suppress(OSError):
            self._peers[rank].settimeout(PATIENCE)
            self._peers[rank].sendall(_HEAD.pack(_FAILED, len(body)) + body)


def _frame(peer: socket.socket) -> tuple[bytes, bytes]:
    kind, length = _HEAD.unpack(exactly(peer, _HEAD.size))
    if length > _MOST_BYTES:
        raise ConnectionError
    return kind, exactly(peer, length)


def exactly(peer: socket.socket, length: int) -> bytes:
    """The next `length` bytes. Raises OSError where the peer is gone, or silent (Timeout)."""
    data = bytearray(length)
    view = memoryview(data)
    while view:
        received = peer.recv_into(view)
        if not received:
            raise ConnectionError
        view = view[received:]
    return bytes(data)


def _split(body: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(body):
        (length,) = _LENGTH.unpack_from(body, place)
        place += _LENGTH.size + length
        yield body[place - length : place]
