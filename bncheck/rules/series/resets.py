"""Where running statistics fell back while the weights went on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from bncheck.series.movement import Floats, Movement
    from bncheck.series.snapshot import State

#: Weights go on if they are nearer to those before than this share of these' way from 1 and 0.
_NEAR: Final = 0.5
#: A resumed layer that is this many times further than usual holds other statistics.
_FACTOR: Final = 4.0


@dataclass(frozen=True, slots=True)
class Reset:
    """A layer whose counter fell, or that a resumed training began with other statistics."""

    place: int
    counters: tuple[int, int] | None
    w2: float


def resets_of(movement: Movement, name: str) -> list[Reset]:
    """The places where a layer fell back. The snapshots must know their steps."""
    if movement.series.order != "step":
        return []
    snapshots, row = movement.snapshots, movement.to_previous[movement.layers.index(name)]
    found = []
    for place in range(1, len(snapshots)):
        before, after = snapshots[place - 1].states.get(name), snapshots[place].states.get(name)
        if before is None or after is None:
            continue
        fell = _counters(before, after)
        other = fell is not None or (_resumed(movement, place) and _is_far(movement, row, place))
        if other and weights_go_on(before, after):
            found.append(Reset(place, fell, float(np.nan_to_num(row[place]))))
    return found


def weights_go_on(before: State, after: State) -> bool:
    """Whether weight and bias are the same or near, and not those of another training."""
    if before.parameters == after.parameters:
        return before.parameters is not None
    first, second = before.sample, after.sample
    if first is None or second is None or first.shape != second.shape:
        return False
    initial = np.concatenate([np.ones(first.size // 2), np.zeros(first.size - first.size // 2)])
    way = float(np.linalg.norm(first - initial))
    return float(np.linalg.norm(second - first)) < _NEAR * way


def _counters(before: State, after: State) -> tuple[int, int] | None:
    """The counter of both where it fell; a layer that has none counts nothing."""
    if before.counter is None or not after.counted:
        return None
    now = after.counter or 0
    return (before.counter, now) if now < before.counter else None


def _resumed(movement: Movement, place: int) -> bool:
    before, after = (movement.snapshots[p].training for p in (place - 1, place))
    return before is not None and after is not None and before.run != after.run


def _is_far(movement: Movement, row: Floats, place: int) -> bool:
    usual = row[max(1, place - 3) : place]
    usual = usual[np.isfinite(usual)]
    known = float(np.median(usual)) if usual.size else 0.0
    return bool(row[place] >= max(movement.thresholds.w2_error, _FACTOR * known))
