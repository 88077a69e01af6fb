"""BN303."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import count
from bncheck.rules.rule import Rule, rule
from bncheck.series.distance import distance
from bncheck.series.movement import statistics_in

if TYPE_CHECKING:
    from bncheck.series.movement import Movement

#: Twice the noise of averages with momentum 0.1 over batches of 32: 2 sqrt(1.5 * 0.053 / 32).
_APART: Final = 0.10


@rule("BN303", "ranks-disagree", Severity.WARNING)
def ranks_disagree(self: Rule[Movement, Finding], movement: Movement) -> Iterator[Finding]:
    """The processes of one training hold different running statistics.

    Each process of a distributed training sees its own share of the data. Which of their
    statistics end up in the checkpoint is then chance, and averaging them leaves out the variance
    between them.

    Criterion: W2 between the files of two ranks from 0.10, twice what the noise of running averages
    explains (momentum 0.1, batches of 32). Files are of one step and several ranks where their
    names differ in nothing but rank0, rank1 and so on.

    Fix: SyncBatchNorm, or DistributedDataParallel with broadcast_buffers=True; recalibrate the
    checkpoint with data.
    """
    for name in movement.layers:
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
                f"{w2:.2f} apart; {count(len(apart), 'file')} of other ranks disagree",
                "use SyncBatchNorm, or DistributedDataParallel with broadcast_buffers=True; "
                "recalibrate with data",
                w2=w2,
                snapshot=str(snapshot.path),
                other=str(rank.path),
            )
