"""How the ranks meet: a store, and connections to rank 0."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from bncheck.measuring.messages import LostRankError
from bncheck.measuring.place import Place
from bncheck.measuring.wire import PATIENCE, Wire, exactly

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

#: What a token and a rank take; who connects and says less is none of ours.
_GREETING: Final = struct.Struct("!32sI")
#: Where the store says what rank 0 listens at.
_HUB: Final = "hub"


def store_for(place: Place, timeout: float) -> Store:
    """Where the ranks meet: torchrun's own store, else one that rank 0 keeps."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    kept_by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    keeps = place.rank == 0 and not kept_by_launcher
    if not keeps:
        _await_store(place, timeout)
    try:
        store = TCPStore(
            place.host, place.port, place.size, keeps, timedelta(seconds=timeout),
            wait_for_workers=False,
        )  # fmt: skip
    except RuntimeError as error:
        raise LostRankError(
            f"rank {place.rank} cannot meet the others at {place.host}:{place.port} "
            f"({first_line(error)})",
            "look at MASTER_ADDR and MASTER_PORT",
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    prefixed: Store = PrefixStore(f"bncheck/{attempt}", store)
    return prefixed


def _await_store(place: Place, timeout: float) -> None:
    """Until somebody listens there: torch waits too, but deaf to signals."""
    until = time.monotonic() + timeout
    while (left := until - time.monotonic()) > 0:
        try:
            socket.create_connection((place.host, place.port), left).close()
        except OSError:
            time.sleep(min(0.1, left))
        else:
            return
    raise LostRankError(
        f"rank 0 was not found at {place.host}:{place.port} within {timeout:g} s",
        "see its own output, or give a longer --timeout",
    )


def first_line(error: BaseException) -> str:
    """What torch says of a failure, without the stack of its own functions below it."""
    return str(error).partition("\n")[0][:200]


def connect(place: Place, store: Store, timeout: float) -> Wire:
    """All ranks connected to rank 0. Raises LostRankError that names who did not come."""
    until = time.monotonic() + timeout
    peers = _welcome(place, store, until) if place.rank == 0 else {0: _call(place, store, until)}
    if missing := [rank for rank in range(1, place.size) if place.rank == 0 and rank not in peers]:
        wire = Wire(0, peers, timeout)
        sentence = f"rank {missing[0]} did not join within {timeout:g} s"
        wire.fail(sentence)
        raise LostRankError(sentence, "see its own output, or give a longer --timeout")
    return Wire(place.rank, peers, timeout)


def _welcome(place: Place, store: Store, until: float) -> dict[int, socket.socket]:
    """Rank 0 says in the store where it listens; who knows the token there is a sibling."""
    import secrets  # which takes as long to import as all beside it

    token = secrets.token_bytes(32)
    peers: dict[int, socket.socket] = {}
    server, host = _listening(place.host)
    with server:
        store.set(_HUB, json.dumps([host, server.getsockname()[1], token.hex()]))
        while len(peers) < place.size - 1 and (left := until - time.monotonic()) > 0:
            server.settimeout(left)
            with contextlib.suppress(OSError):
                peer, _ = server.accept()
                peer.settimeout(PATIENCE)
                said, rank = _GREETING.unpack(exactly(peer, _GREETING.size))
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
    raise LostRankError("rank 0 did not join in time", "see its own output, or raise --timeout")
