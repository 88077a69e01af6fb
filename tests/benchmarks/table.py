"""Measurements as rows of one shape, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """What does the same or less; a cost of None says that it is not installed here."""

    name: str
    cost: float | None
    peak: float | None = None


@dataclass(frozen=True)
class Row:
    """A cost of ours, beside peers' in the same unit: seconds of CPU where none is named.

    Peaks are in MiB, of the process that did it. `wanted` is what the project aims at.
    """

    work: str
    cost: float
    peers: tuple[Peer, ...] = ()
    peak: float | None = None
    unit: str = "s"
    wanted: str = ""

    def cells(self) -> tuple[str, ...]:
        """Work, ours, peer, ratio to the peer, peak, wanted."""
        peers = [_peer(peer, self.unit) for peer in self.peers]
        ratios = ["" if not peer.cost else f"{self.cost / peer.cost:.2f}" for peer in self.peers]
        peak = "" if self.peak is None else f"{self.peak:,.0f} MiB"
        beside = [f"{peer.name} {peer.peak:,.0f}" for peer in self.peers if peer.peak is not None]
        if beside:
            peak += f" ({', '.join(beside)})"
        ours = f"{_number(self.cost)} {self.unit}"
        return self.work, ours, "<br>".join(peers), "<br>".join(ratios), peak, self.wanted


HEAD = ("work", "bncheck", "peer", "ratio", "peak memory", "wanted")


def _peer(peer: Peer, unit: str) -> str:
    if peer.cost is None:
        return f"{peer.name}: not installed"
    return f"{peer.name} {_number(peer.cost)} {unit}"


def _number(cost: float) -> str:
    return f"{cost:.3f}" if cost < 0.1 else f"{cost:.2f}" if cost < 10 else f"{cost:.1f}"


def markdown(rows: Sequence[Row]) -> str:
    """A table for the documentation."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below a head, columns aligned."""
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    print(title)
    for row in (head, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
