"""BN306."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from bncheck.core.findings import Finding, Severity
from bncheck.layers.norm_layer import DEFAULT_MOMENTUM
from bncheck.rules.rule import Rule, rule
from bncheck.rules.series.batches import batch_distance, distance_text, is_warm, surprise

if TYPE_CHECKING:
    from bncheck.series.movement import Movement

#: Updates between the first and the last step: an average with momentum 0.1 has followed any jump
#: to 1 % by then.
_UPDATES: Final = 40
#: By chance at most one in so many rows of steps is taken for trailing.
_SURE: Final = 1e4


@rule("BN306", "statistics-trail-the-batch", Severity.WARNING)
def trailing(self: Rule[Movement, Finding], movement: Movement) -> Iterator[Finding]:
    """Running statistics stay far behind what batches show while the network trains.

    The network moves faster than its averages follow: a momentum that is too small, or a learning
    rate that is too high for eval() to work at this step. Validation in eval() then looks worse
    than the network is, and a checkpoint of this step needs new statistics. It often ends by itself
    when the learning rate falls.

    Criterion: in a record, W2 of the running statistics from the batch's, less what it is by
    chance, is from 0.40 in recorded steps in a row over at least 40 updates, in a layer that is in
    train(), whose momentum is not 0, and whose average has made 3/m updates (or 300); and the
    product of W2^2 over what chance makes of it, over these steps, is from 10,000. By chance that
    is 1 on average, so that at most one such row in 10,000 gets there (Ville's inequality). Chance
    is (kappa + 1)/B of the images' own differences, kappa = m/(2 - m), or what the layer's batches
    differ by from one to the next, channel by channel the larger: features that few images have
    are none that the averages trail.

    Fix: a momentum of 0.1 where it is smaller, a lower learning rate; recalibrate before you
    evaluate.
    """
    for name in movement.layers:
        places = _trailing(movement, name)
        if places:
            first, last = (movement.snapshots[places[end]] for end in (0, -1))
            worst = max(batch_distance(movement.snapshots[place], name) for place in places)
            momentum = last.states[name].momentum
            told = "" if momentum is None else f" (momentum {momentum:g})"
            yield self.finding(
                Severity.WARNING,
                name,
                f"its running statistics are up to W2 {distance_text(worst)} from those of the "
                f"batch, from {first.label} to {last.label}{told}: eval() is another network than "
                "train()",
                _what_to_do(momentum),
                w2=worst,
                since=first.label,
            )


def _what_to_do(momentum: float | None) -> str:
    small = momentum is None or momentum < DEFAULT_MOMENTUM
    what = "use momentum 0.1 or a lower learning rate" if small else "use a lower learning rate"
    return f"{what}; recalibrate before you evaluate"


def _trailing(movement: Movement, name: str) -> list[int]:
    """The first run of places that is long enough; empty where none is."""
    row: list[int] = []
    for place, snapshot in enumerate(movement.snapshots):
        state = snapshot.states.get(name)
        far = batch_distance(snapshot, name) >= movement.thresholds.w2_error
        if far and is_warm(state):
            row.append(place)
            continue
        if _long_enough(movement, name, row):
            return row
        row = []
    return row if _long_enough(movement, name, row) else []


def _long_enough(movement: Movement, name: str, places: list[int]) -> bool:
    if not places:
        return False
    row = [movement.snapshots[place] for place in places]
    long = (row[-1].position or 0) - (row[0].position or 0) >= _UPDATES
    return long and surprise(row, name) >= _SURE
