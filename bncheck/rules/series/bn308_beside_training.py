"""BN308."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.core.thresholds import W2_WARNING
from bncheck.rules.rule import Rule, rule
from bncheck.rules.series.batches import batch_distance, by_chance, distance_text, is_warm
from bncheck.rules.series.resets import resets_of

if TYPE_CHECKING:
    from bncheck.series.movement import Movement

#: Intervals that are looked back on, and how many of them have as many calls a step.
_LOOK_BACK: Final = 5
_ALIKE: Final = 2
#: This many times further than usual, and than by chance, in W2^2.
_FACTOR: Final = 4.0
_SURE: Final = 16.0


@rule("BN308", "batches-beside-training", Severity.WARNING)
def beside_training(self: Rule[Movement, Finding], movement: Movement) -> Iterator[Finding]:
    """Batches that no step was made with moved the running statistics away from the training's.

    A validation without model.eval() is the usual case: each of its batches goes into the running
    averages. Where its data are prepared in another way, are sorted, or come in smaller batches,
    eval() is wrong from then on until training batches have replaced them, and so is the checkpoint
    that is saved after the validation.

    Criterion: in a record, between two snapshots the layer's counter of batches grew by more than
    its usual number of calls a step (the same in 2 of the last 5 intervals at least); W2 to the
    snapshot before is from 0.40, more than 4 times what the layer moved in the median of those, and
    W2^2 16 times what it is by chance (BN306); and W2 of the running statistics from the training's
    next batch is from 0.20. Statistics that were measured anew on purpose fit the next batch.

    Fix: call model.eval() before validating and model.train() after it; recalibrate checkpoints
    that were saved in between.
    """
    for number, name in enumerate(movement.layers):
        far = movement.to_previous[number] >= movement.thresholds.w2_error
        for place in np.flatnonzero(far).tolist():
            found = _found(movement, number, place)
            lost = found and any(reset.place == place for reset in resets_of(movement, name))
            if found is not None and not lost:
                calls, steps, usual = found
                before, after = (movement.snapshots[p] for p in (place - 1, place))
                w2 = float(movement.to_previous[number, place])
                yield self.finding(
                    Severity.WARNING,
                    name,
                    f"was called {calls:,} times in the {steps:,} steps from {before.label} to "
                    f"{after.label}, and its running statistics moved by W2 {distance_text(w2)}, "
                    f"where {distance_text(usual)} is usual, away from the training's batches: "
                    "other batches went through it in train()",
                    "call model.eval() before validating and model.train() after it; recalibrate "
                    "checkpoints that were saved in between",
                    w2=w2,
                    usual=usual,
                    calls=calls,
                    to_step=after.position,
                )
                break


def _found(movement: Movement, number: int, place: int) -> tuple[int, int, float] | None:
    """The calls in an interval, its steps, and how far the layer moves usually."""
    name, row = movement.layers[number], movement.to_previous[number]
    after = movement.snapshots[place]
    now = _calls(movement, name, place)
    if now is None:
        return None
    earlier = range(max(1, place - _LOOK_BACK), place)
    made = {p: _calls(movement, name, p) for p in earlier}
    rates = {p: pair[0] / pair[1] for p, pair in made.items() if pair is not None}
    ((rate, alike),) = Counter(rates.values()).most_common(1) or [(0.0, 0)]  # calls a step
    calls, steps = now
    if alike < _ALIKE or rate < 1 or calls <= rate * steps:
        return None
    moved = row[[p for p, own in rates.items() if own == rate]]
    usual = float(np.nanmedian(moved)) if np.isfinite(moved).any() else float("inf")
    chance = by_chance(movement.snapshots[:place], name)
    far = row[place] > _FACTOR * usual and row[place] ** 2 >= _SURE * chance
    away = batch_distance(after, name) >= W2_WARNING
    warm = is_warm(movement.snapshots[place - 1].states.get(name))
    return (calls, steps, usual) if far and away and warm else None


def _calls(movement: Movement, name: str, place: int) -> tuple[int, int] | None:
    """The calls and the steps from the snapshot before, both of one run of the training."""
    before, after = movement.snapshots[place - 1], movement.snapshots[place]
    old, new = before.states.get(name), after.states.get(name)
    if before.training is None or after.training is None or old is None or new is None:
        return None
    if before.training.run != after.training.run or old.counter is None or new.counter is None:
        return None
    calls, steps = new.counter - old.counter, (after.step or 0) - (before.step or 0)
    return (calls, steps) if calls > 0 and steps > 0 else None
