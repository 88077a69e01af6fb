"""What speaks against measured statistics: results that are worse, or nothing that shows them.

`inspect` recommends them, and `recalibrate` writes them, only where there is no objection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from bncheck.measuring.measurement import Measurement
from bncheck.measuring.results import Comparison, Direction

#: Where as many answers are right with either statistics, a loss that is so many standard errors
#: higher is no chance.
_LOSS_SIGMAS: Final = 2.0
#: Without labels: a model that was sure of itself, most of whose predictions stay, and whose doubt
#: (1 - mean confidence) grows this many times, and by this much, has become worse.
_SURE: Final = 0.85
_MOST_FLIPS: Final = 0.3
_DOUBT_FACTOR: Final = 3.0
_DOUBT_GROWTH: Final = 0.005

#: What to do where only results can tell.
GIVE_LABELS: Final = "give labels (or --metric), which show whether recalibrating helps"


@dataclass(frozen=True, slots=True)
class Objection:
    """Why not, as a clause; `worse` where results show it, and not only fail to show more."""

    why: str
    worse: bool


def objection(measurement: Measurement) -> Objection | None:
    """What results and figures say against measured statistics, whatever explains the old ones."""
    c = measurement.comparison
    if c is None:
        return None
    if c.direction is Direction.WORSE:
        return Objection(
            f"{c.metric} would fall from {c.before:.3f} to {c.after:.3f}; the running "
            "statistics do better on these data than measured ones",
            worse=True,
        )
    return _still_far(measurement) or _less_sure(measurement, c)


def _still_far(measurement: Measurement) -> Objection | None:
    old = max((m.eval.w2 for m in measurement.reached if m.eval is not None), default=math.inf)
    new = max(measurement.restored.values(), default=0.0)
    if measurement.thresholds.severity(new) is None or new < old:
        return None
    return Objection(f"W2 would not fall (from {old:.2f} to {new:.2f})", worse=False)


def _less_sure(measurement: Measurement, c: Comparison) -> Objection | None:
    """Without labels, a model that knew what it said and would know much less."""
    if c.direction is not Direction.UNKNOWN or c.confidence is None or not measurement.reached:
        return None
    before, after = (1 - confidence for confidence in c.confidence)
    known = 1 - before >= _SURE and not _changes_most(c)
    if not (known and after > _DOUBT_FACTOR * before and after > before + _DOUBT_GROWTH):
        return None
    return Objection(_falls(c), worse=True)


def unproven(measurement: Measurement) -> Objection | None:
    """What is missing where the numbers do not show a fault by themselves.

    As many right answers are no proof where the loss rises. Without labels confidence is evidence
    as long as most predictions stay: a model with wrong statistics can be sure of nonsense.
    """
    c = measurement.comparison
    if c is None or c.direction in (Direction.BETTER, Direction.WORSE):
        return None
    if c.direction is Direction.SAME:
        return _rising_loss(c)
    if c.confidence is None:
        return Objection("without labels nothing shows that it helps", worse=False)
    fallen = c.confidence[1] < c.confidence[0] - _DOUBT_GROWTH
    return Objection(_falls(c), worse=False) if fallen and not _changes_most(c) else None


def _rising_loss(c: Comparison) -> Objection | None:
    if c.loss is None or (c.loss_gain or 0.0) > -_LOSS_SIGMAS:
        return None
    was, new = c.loss
    why = f"{c.metric} would stay the same, and the loss would rise from {was:.3f} to {new:.3f}"
    return Objection(why, worse=False)


def _changes_most(c: Comparison) -> bool:
    return c.flips is None or c.flips > _MOST_FLIPS


def _falls(c: Comparison) -> str:
    assert c.confidence is not None
    return (
        "without labels there is only the model's confidence to go by, and it would fall from "
        f"{c.confidence[0]:.3f} to {c.confidence[1]:.3f}"
    )
