"""BN304."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.rules.rule import Rule, rule
from bncheck.rules.series.batches import (
    are_settled,
    batch_change,
    by_chance,
    distance_text,
    surprise,
)
from bncheck.rules.series.resets import resets_of

if TYPE_CHECKING:
    from bncheck.series.movement import Floats, Movement

#: This many times further than usual.
_FACTOR: Final = 4.0
#: Intervals that are looked back on, and how many there must be before anything is late.
_LOOK_BACK: Final = 3
_BEFORE: Final = 2
#: A batch is never nearer than this for sure.
_LEAST: Final = 0.05
#: Two batches that are 4 times as far as usual are so by chance at most once in so many times.
_SURE: Final = 16.0
#: A batch that is so much of the way back, in log variance, shows that nothing has changed.
_BACK: Final = 0.75


@rule("BN304", "late-distribution-shift", Severity.WARNING)
def late_shift(self: Rule[Movement, Finding], movement: Movement) -> Iterator[Finding]:
    """A layer that had been moving calmly jumped from one snapshot to the next.

    Other data, another preparation of it, a learning rate that went up, a loss that blew up and
    recovered. Falling learning rates move statistics too, but not like this; a checkpoint that was
    resumed without its buffers is BN305.

    Criterion: W2 to the snapshot before from 0.40, and more than 4 times the median of what the
    layer moved in the last 3 intervals (at least 2), each stretched to the length of this one
    where the steps are known; and from 0.40 where no channel counts for more than 0.7, nor for
    more than all others together: one batch is enough to move features that few images have. In a
    record W2^2 is also 16 times what it is by chance, 2 kappa of what batches differ by (BN306),
    and 256 times where the batch of that step is back where the layer was. There what is usual
    also grows with the learning rate, as far as that was as high before: a planned restart moves
    statistics no further than the beginning. There W2 of the running statistics from the batch
    counts, too (BN306), where two recorded steps in a row are 4 times as far as is usual, one of
    them from 0.40 and the other from 0.20, and the product of W2^2 over what it is by chance is
    from 16 (BN306): averages with a small momentum jump late. Of a young average, from 30 updates
    on, what is left of its beginning, 5 to 50 %, is taken out of it first.

    Fix: look at what changed between the two snapshots; go on from the one before.
    """
    gaps, rates = _gaps(movement), _rates(movement)
    for number, name in enumerate(movement.layers):
        row, common = movement.to_previous[number], movement.common_to_previous[number]
        # What is lost comes back, which is no jump of its own.
        lost = {reset.place + later for reset in resets_of(movement, name) for later in (0, 1, 2)}
        jumped = False
        far = (row >= movement.thresholds.w2_error) & (common >= movement.thresholds.w2_error)
        for place in np.flatnonzero(far).tolist():
            if _is_chance(movement, number, place):
                continue
            usual = _usual(row, gaps, rates, place) if place > _BEFORE else float("inf")
            if row[place] > _FACTOR * usual and place not in lost:
                jumped = True
                before, after = movement.snapshots[place - 1], movement.snapshots[place]
                # A recorder's snapshots are in memory, and their path is that of the whole record.
                in_memory = before.path == after.path
                last = before.label if in_memory else before.path.name
                yield self.finding(
                    Severity.WARNING,
                    name,
                    f"jumps by W2 {distance_text(row[place])} from {before.label} to "
                    f"{after.label}, where {distance_text(usual)} is usual",
                    "look at what changed in between (data, learning rate, a resumed run); "
                    f"{last} is the last snapshot before it",
                    w2=float(row[place]),
                    usual=usual,
                    before=str(before.path),
                    after=str(after.path),
                    to_step=after.position,
                )

        if not jumped:
            yield from _of_batches(self, movement, name, rates, lost)


def _is_chance(movement: Movement, number: int, place: int) -> bool:
    """Whether an average may have jumped by what batches differ by.

    One batch with a heavy tail throws an average, and the next is where the layer was: it is off by
    as much as the average jumped, in the other direction.
    """
    name, square = movement.layers[number], movement.to_previous[number, place] ** 2
    chance = by_chance(movement.snapshots[:place], name)
    if square >= _SURE**2 * chance:
        return False
    training = movement.snapshots[place].training
    seen = None if training is None else training.seen.get(name)
    back = 0.0 if seen is None else -(seen.log_variance_ratio or 0.0)
    wider = float(movement.ratio_to_previous[number, place])
    return square < _SURE * chance or 0 < _BACK * wider <= back


def _of_batches(
    self: Rule[Movement, Finding], movement: Movement, name: str, rates: Floats, lost: set[int]
) -> Iterator[Finding]:
    """The first two batches in a row that are far from running statistics that fitted before."""
    snapshots = movement.snapshots
    row = np.array([batch_change(snapshot, name) for snapshot in snapshots])
    for place in range(_BEFORE + 2, row.size):
        nearer, now = sorted(row[place - 1 : place + 1].tolist())
        before, after = movement.snapshots[place - 2], movement.snapshots[place]
        limits = movement.thresholds
        far = now >= limits.w2_error and nearer >= limits.w2_warning
        sure = surprise(snapshots[place - 1 : place + 1], name) >= _SURE
        looked_at = snapshots[max(0, place - 1 - _LOOK_BACK) : place + 1]
        if not far or not sure or not are_settled(looked_at, name):
            continue
        usual = max(_usual(row, np.ones(row.size), rates, place - 1), _LEAST)
        if nearer > _FACTOR * usual and not {place - 1, place} & lost:
            first = movement.snapshots[place - 1]
            yield self.finding(
                Severity.WARNING,
                name,
                f"its batches are W2 {distance_text(row[place - 1])} and "
                f"{distance_text(row[place])} from its running statistics at {first.label} and "
                f"{after.label}, where {distance_text(usual)} is usual",
                "look at what changed in between (data, learning rate, a resumed run); "
                f"{before.label} is the last snapshot before it",
                w2=now,
                usual=usual,
                before=str(before.path),
                after=str(after.path),
                to_step=after.position,
            )
            return


def _gaps(movement: Movement) -> Floats:
    """Steps from the snapshot before; 1 each where the steps are not known or do not grow."""
    steps = [snapshot.position for snapshot in movement.snapshots]
    known = np.array([float("nan") if step is None else float(step) for step in steps])
    gaps = np.diff(known, prepend=np.nan)
    return gaps if bool(np.all(gaps[1:] > 0)) else np.ones(len(steps))


def _rates(movement: Movement) -> Floats:
    """The learning rate of every interval, no higher than it had been before; NaN if unknown."""
    rates = []
    for snapshot in movement.snapshots:
        told = snapshot.training
        known = [rate for rate in (told.lr, told.peak_lr) if rate is not None] if told else []
        rates.append(min(known) if len(known) == 2 else float("nan"))
    return np.array(rates)


def _usual(row: Floats, gaps: Floats, rates: Floats, place: int) -> float:
    """What the layer moved before, stretched to this interval's length and rate: the median."""
    earlier = np.arange(max(1, place - _LOOK_BACK), place)
    stretch = np.maximum(gaps[place] / gaps[earlier], 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        faster = np.nan_to_num(rates[place] / rates[earlier], nan=1.0, posinf=1.0)
    stretch = stretch * np.maximum(faster, 1.0)
    moved = row[earlier] * stretch
    return float(np.nanmedian(moved)) if np.isfinite(moved).any() else float("inf")
