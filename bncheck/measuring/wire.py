"""Messages between the processes that torchrun started: bytes, deadlines, and who is missing.

Rank 0 is the hub: everyone sends it a message and gets all of them back, in the order of ranks. A
socket tells at once when its other end dies, and a deadline names the rank that is silent; neither
can be had of a collective, which ends in a page of the transport's own words or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Final

from bncheck.core.errors import BncheckError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_MESSAGE, _WAITING, _FAILED = b"m", b"w", b"f"
_HEAD: Final = struct.Struct("!cQ")
_LENGTH: Final = struct.Struct("!Q")
#: A round's moments of the largest networks take some 100 MB.
_MOST_BYTES: Final = 1 << 32
#: What a token and a rank take; who connects and says less is none of ours.
_GREETING: Final = struct.Struct("!32sI")
#: Where the store says what rank 0 listens at.
_HUB: Final = "hub"
#: Seconds for telling the others of a failure, which may not keep this process from ending.
_PATIENCE: Final = 1.0


class LostRankError(BncheckError):
    """A rank ended, failed or is silent: nothing more can be exchanged."""


@dataclass(frozen=True, slots=True)
class Place:
    """This process among its siblings, and where they meet: from the environment."""

    rank: int
    size: int
    host: str
    port: int

    @classmethod
    def from_environment(cls) -> Place | None:
        """None without torchrun, or another launcher that sets the same variables."""
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return None
        rank, size, port = (_number(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
        host = os.environ.get("MASTER_ADDR")
        if not host or not 0 <= rank < size or not 0 < port < 1 << 16:
            raise BncheckError(
                f"the environment has RANK {rank}, WORLD_SIZE {size}, MASTER_ADDR {host!r} and "
                f"MASTER_PORT {port}, which is no place in a group of processes",
                "start with torchrun, or unset WORLD_SIZE",
            )
        return cls(rank, size, host, port)


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isascii() or not text.isdigit():
        raise BncheckError(
            f"WORLD_SIZE is set, and {name} is {text!r}, not a number",
            "start with torchrun, or unset WORLD_SIZE",
        )
    return int(text)


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
        """Hang up; what was not read goes first, or it would take back what was sent last."""
        for peer in self._peers.values():
            with contextlib.suppress(OSError):
                peer.settimeout(0)
                while peer.recv(1 << 16):
                    pass
            peer.close()

    def _collect(self, mine: bytes) -> list[bytes]:
        messages = {0: mine}
        until = time.monotonic() + self._timeout
        while missing := [rank for rank in self._peers if rank not in messages]:
            for rank in messages.keys() - {0}:
                self._send(rank, _WAITING, str(missing[0]).encode())
            ready = self._wait([self._peers[rank] for rank in missing], until)
            if not ready:
                raise self._silent(missing[0])
            for rank in missing:
                if self._peers[rank] in ready:
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
            raise self._lost(body.decode(errors="replace"), "see what that rank says", but=rank)
        return kind, body

    def _last_words(self, rank: int) -> None:
        """What a rank that can no longer be sent anything said before it went."""
        while self._wait([self._peers[rank]], time.monotonic() + _PATIENCE):
            self._receive(rank)

    def _silent(self, rank: int) -> LostRankError:
        sentence = f"rank {rank} did not answer within {self._timeout:g} s"
        return self._lost(sentence, "see what it waits for, or give a longer --timeout")

    def _gone(self, rank: int) -> LostRankError:
        sentence = f"rank {rank} ended without a word"
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
            self._peers[rank].settimeout(_PATIENCE)
            self._peers[rank].sendall(_HEAD.pack(_FAILED, len(body)) + body)


def _frame(peer: socket.socket) -> tuple[bytes, bytes]:
    kind, length = _HEAD.unpack(_exactly(peer, _HEAD.size))
    if length > _MOST_BYTES:
        raise ConnectionError
    return kind, _exactly(peer, length)


def _exactly(peer: socket.socket, length: int) -> bytes:
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


def connect(place: Place, store: Store, timeout: float) -> Wire:
    """All ranks connected to rank 0. Raises LostRankError that names who did not come."""
    until = time.monotonic() + timeout
    peers = _welcome(place, store, until) if place.rank == 0 else {0: _call(place, store, until)}
    if missing := [rank for rank in range(1, place.size) if place.rank == 0 and rank not in peers]:
        wire = Wire(0, peers, timeout)
        sentence = f"rank {missing[0]} did not come within {timeout:g} s"
        wire.fail(sentence)
        raise LostRankError(sentence, "see its own output, or give a longer --timeout")
    return Wire(place.rank, peers, timeout)


def _welcome(place: Place, store: Store, until: float) -> dict[int, socket.socket]:
    """Rank 0 says in the store where it listens; who knows the token there is a sibling."""
    token = secrets.token_bytes(32)
    peers: dict[int, socket.socket] = {}
    server, host = _listening(place.host)
    with server:
        store.set(_HUB, json.dumps([host, server.getsockname()[1], token.hex()]))
        while len(peers) < place.size - 1 and (left := until - time.monotonic()) > 0:
            server.settimeout(left)
            with contextlib.suppress(OSError):
                peer, _ = server.accept()
                peer.settimeout(_PATIENCE)
                said, rank = _GREETING.unpack(_exactly(peer, _GREETING.size))
                if secrets.compare_digest(said, token) and 0 < rank < place.size:
                    peers[rank] = peer
    return dict(sorted(peers.items()))


def _listening(host: str) -> tuple[socket.socket, str]:
    """A free port at the address where the ranks meet, else (it is another node's) at any."""
    try:
        family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family), host
    except OSError:
        return socket.create_server(("", 0)), socket.getfqdn()


def _call(place: Place, store: Store, until: float) -> socket.socket:
    """The other ranks' connection to rank 0."""
    while (left := until - time.monotonic()) > 0:
        try:
            store.wait([_HUB], timedelta(seconds=min(left, 1.0)))
            host, port, token = json.loads(store.get(_HUB))
            peer = socket.create_connection((host, port), left)
            peer.sendall(_GREETING.pack(bytes.fromhex(token), place.rank))
        except (RuntimeError, OSError):  # a store that has nothing yet raises a RuntimeError
            time.sleep(0.05)
        else:
            return peer
    raise LostRankError("rank 0 did not come in time", "see its own output, or raise --timeout")
