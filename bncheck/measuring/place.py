"""Where a process stands among its siblings, from the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

from bncheck.core.errors import BncheckError


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
                f"MASTER_PORT {port}, which is not a place in a group of processes",
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
