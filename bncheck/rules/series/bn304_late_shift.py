"""BN304."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.rules.rule import Rule, rule

if TYPE_CHECKING:
    from bncheck.series.movement import Floats, Movement

#: This many times further than usual.
_FACTOR: Final = 4.0
#: Intervals that are looked back on, and how many there must be before anything is late.
_LOOK_BACK: Final = 3
_BEFORE: Final = 2


@rule("BN304", "late-distribution-shift", Severity.WARNING)
def late_shift(self: Rule[Movement, Finding], movement: Movement) -> Iterator[Finding]:
    """A layer that had been moving calmly jumped from one snapshot to the next.

    Other data, another preparation of it, a learning rate that went up, a loss that blew up and
    recovered, or a checkpoint resumed without its buffers. Falling learning rates move statistics
    too, but not like this.

    Criterion: W2 to the snapshot before from 0.40, and more than 4 times the median of what the
    layer moved in the last 3 intervals (at least 2), each stretched to the length of this one
    where the steps are known.

    Fix: look at what changed between the two snapshots; go on from the one before.
    """
    gaps = _gaps(movement)
    for name, row in zip(movement.layers, movement.to_previous, strict=True):
        for place in np.flatnonzero(row >= movement.thresholds.w2_error).tolist():
            usual = _usual(row, gaps, place) if place > _BEFORE else float("inf")
            if row[place] > _FACTOR * usual:
                before, after = movement.snapshots[place - 1], movement.snapshots[place]
                yield self.finding(
                    Severity.WARNING,
                    name,
                    f"jumps by W2 {row[place]:.2f} from {before.label} to {after.label}, where "
                    f"{usual:.2f} is usual",
                    "look at what changed in between (data, learning rate, a resumed run); "
                    f"{before.path.name} is the last snapshot before it",
                    w2=float(row[place]),
                    usual=usual,
                    before=str(before.path),
                    after=str(after.path),
                )


def _gaps(movement: Movement) -> Floats:
    """Steps from the snapshot before; 1 each where the steps are not known or do not grow."""
    steps = [snapshot.position for snapshot in movement.snapshots]
    known = np.array([float("nan") if step is None else float(step) for step in steps])
    gaps = np.diff(known, prepend=np.nan)
    return gaps if bool(np.all(gaps[1:] > 0)) else np.ones(len(steps))


def _usual(row: Floats, gaps: Floats, place: int) -> float:
    """What the layer moved in the intervals before, stretched to this one's length: the median."""
    earlier = np.arange(max(1, place - _LOOK_BACK), place)
    stretch = np.maximum(gaps[place] / gaps[earlier], 1.0)
    moved = row[earlier] * stretch
    return float(np.nanmedian(moved)) if np.isfinite(moved).any() else float("inf")
