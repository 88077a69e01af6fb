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
                f"{w2:.2f} apart; {count(len(apart), 'file')} of other ranks disagree",
                "use SyncBatchNorm, or DistributedDataParallel with broadcast_buffers=True; "
                "recalibrate with data",
                w2=w2,
                snapshot=str(snapshot.path),
                other=str(rank.path),
            )


def _of_batches(self: Rule[Movement, Finding], movement: Movement, name: str) -> Iterator[Finding]:
    """A process whose batches are others than those of the rest."""
    limit, rank, evidence, since = movement.thresholds.w2_warning, None, 1.0, 0
    for place, snapshot in enumerate(movement.snapshots):
        apart, factor, own = _apart(snapshot, name)
        if apart < limit or own != rank:
            rank, evidence, since = own, 1.0, place
        if apart < limit:
            continue
        evidence *= factor
        if place > since and evidence >= _SURE:
            yield self.finding(
                Severity.WARNING,
                name,
                f"the batches of process {rank} are W2 {apart:.2f} from those of the others "
                f"from {movement.snapshots[since].label} to {snapshot.label}",
                "give every process a share of the same data, drawn at random "
                "(DistributedSampler with shuffle and set_epoch)",
                w2=apart,
                rank=rank,
                snapshot=str(snapshot.path),
            )
            return


def _apart(snapshot: Snapshot, name: str) -> tuple[float, float, int | None]:
    """W2 of the furthest process, how many times further than by chance its square is, and which.

    Older records have W2 only where its square is 4 times the noise.
    """
    seen = snapshot.training.seen.get(name) if snapshot.training is not None else None
    if seen is None or seen.apart is None:
        return 0.0, 1.0, None
    if seen.apart_noise is None:
        return seen.apart, _SURE, seen.rank
    return seen.apart, 1 + seen.apart**2 / max(seen.apart_noise, _TINY), seen.rank
