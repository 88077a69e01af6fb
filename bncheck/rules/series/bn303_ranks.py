"""BN303."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import count
from bncheck.rules.rule import Rule, rule
from bncheck.rules.series.batches import distance_text
from bncheck.series.distance import distance
from bncheck.series.movement import statistics_in

if TYPE_CHECKING:
    from bncheck.series.movement import Movement
    from bncheck.series.snapshot import Snapshot

#: Twice the noise of averages with momentum 0.1 over batches of 32: 2 sqrt(1.5 * 0.053 / 32).
_APART: Final = 0.10
#: By chance at most one in so many rows of steps makes two processes differ (see BN306).
_SURE: Final = 1000.0
_TINY: Final = 1e-300


@rule("BN303", "ranks-disagree", Severity.WARNING)
def ranks_disagree(self: Rule[Movement, Finding], movement: Movement) -> Iterator[Finding]:
    """The processes of one training hold different running statistics.

    Each process of a distributed training sees its own share of the data. Which of their
    statistics end up in the checkpoint is then chance, and averaging them leaves out the variance
    between them.

    In a record, where each process tells what its batch was like: a process sees other data than
    the others, though their buffers are equal.

    Criterion: W2 between the files of two ranks from 0.10, twice what the noise of running averages
    explains (momentum 0.1, batches of 32). Files are of one step and several ranks where their
    names differ in nothing but rank0, rank1 and so on. In a record: W2 of one process's batch from
    that of the others, less sampling noise, is from 0.20 in 2 recorded steps in a row or more, and
    the product of its square over what chance makes of it is from 1,000 (see BN306); layers of
    SyncBatchNorm, which share one batch, are left out.

    Fix: SyncBatchNorm, or DistributedDataParallel with broadcast_buffers=True; recalibrate the
    checkpoint with data.
    """
    for name in movement.layers:
        yield from _of_batches(self, movement, name)
        found = [
            (float(distance(base, other).w2), place, rank)
            for place, ranks in movement.series.ranks.items()
            if (base := statistics_in(movement.snapshots[place], name)) is not None
            for rank in ranks
            if (other := statistics_in(rank, name)) is not None
        ]
        apart = [entry for entry in found if entry[0] >= _APART]
        if apart:
            w2, place, rank = max(apart, key=lambda entry: entry[0])
            snapshot = movement.snapshots[place]
            yield self.finding(
                Severity.WARNING,
                name,
                f"{rank.path.name} and {snapshot.path.name} have running statistics W2 "
                f"{distance_text(w2)} apart; {count(len(apart), 'file')} of other ranks disagree",
                "use SyncBatchNorm, or DistributedDataParallel with broadcast_buffers=True; "
                "recalibrate with data",
                w2=w2,
                snapshot=str(snapshot.path),
                other=str(rank.path),
            )


def _of_batches(self: Rule[Movement, Finding], movement: Movement, name: str) -> Iterator[Finding]:
    """A process whose batches are others than those of the rest; of two, neither is the odd one."""
    limit, row = movement.thresholds.w2_warning, list[_Apart]()
    for snapshot in movement.snapshots:
        now = _apart(snapshot, name)
        if now.w2 < limit or (row and row[-1].rank != now.rank):
            row = []
        if now.w2 < limit:
            continue
        row.append(now)
        if len(row) > 1 and math.prod(one.factor for one in row) >= _SURE:
            of = "two processes" if now.rank is None else f"process {now.rank}"
            others = "one another" if now.rank is None else "those of the others"
            yield self.finding(
                Severity.WARNING,
                name,
                f"the batches of {of} are W2 {distance_text(now.w2)} from {others} "
                f"from {row[0].label} to {snapshot.label}",
                "give every process a share of the same data, drawn at random "
                "(DistributedSampler with shuffle and set_epoch)",
                w2=now.w2,
                rank=now.rank,
                snapshot=str(snapshot.path),
            )
            return


class _Apart(NamedTuple):
    """W2 of the furthest process, how many times further than by chance its square is, and which.

    None where there are two: each is as far from the other.
    """

    w2: float
    factor: float
    rank: int | None
    label: str


def _apart(snapshot: Snapshot, name: str) -> _Apart:
    """Older records have W2 only where its square is 4 times the noise."""
    seen = snapshot.training.seen.get(name) if snapshot.training is not None else None
    if seen is None or seen.apart is None:
        return _Apart(0.0, 1.0, None, snapshot.label)
    factor = _SURE
    if seen.apart_noise is not None:
        factor = 1 + seen.apart**2 / max(seen.apart_noise, _TINY)
    return _Apart(seen.apart, factor, seen.rank, snapshot.label)
