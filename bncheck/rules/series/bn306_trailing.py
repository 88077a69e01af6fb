"""BN306."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from bncheck.core.findings import Finding, Severity
from bncheck.rules.rule import Rule, rule
from bncheck.rules.series.batches import batch_distance, is_warm

if TYPE_CHECKING:
    from bncheck.series.movement import Movement

#: Recorded steps in a row, and updates between the first and the last of them: an average with
#: momentum 0.1 has followed any jump to 1 % by then.
_IN_A_ROW: Final = 4
_UPDATES: Final = 40


@rule("BN306", "statistics-trail-the-batch", Severity.WARNING)
def trailing(self: Rule[Movement, Finding], movement: Movement) -> Iterator[Finding]:
    """Running statistics stay far behind what batches show while the network trains.

    The network moves faster than its averages follow: a momentum that is too small, or a learning
    rate that is too high for eval() to work at this step. Validation in eval() then looks worse
    than the network is, and a checkpoint of this step needs new statistics. It often ends by itself
    when the learning rate falls.

    Criterion: in a record, W2 of the running statistics from the batch's, less the noise of both
    ((kappa + 1)/B, kappa = m/(2 - m)), is from 0.40, and its square from 4 times that noise, in 4
    recorded steps in a row over at least 40 updates, in a layer that is in train(), whose momentum
    is not 0, and whose average has made 3/m updates (or 50). No channel counts for more than 0.7:
    features that few images have are none that the averages trail.

    Fix: a larger momentum (0.1), a lower learning rate; recalibrate before you evaluate.
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
                f"its running statistics are up to W2 {worst:.2f} from those of the batch, from "
                f"{first.label} to {last.label}{told}: eval() is another network than train()",
                "use momentum 0.1 or a lower learning rate; recalibrate before you evaluate",
                w2=worst,
                since=first.label,
            )


def _trailing(movement: Movement, name: str) -> list[int]:
    """The first run of places that is long enough; empty where none is."""
    row: list[int] = []
    for place, snapshot in enumerate(movement.snapshots):
        state = snapshot.states.get(name)
        far = batch_distance(snapshot, name) >= movement.thresholds.w2_error
        if far and is_warm(state):
            row.append(place)
            continue
        if _long_enough(movement, row):
            return row
        row = []
    return row if _long_enough(movement, row) else []


def _long_enough(movement: Movement, places: list[int]) -> bool:
    if len(places) < _IN_A_ROW:
        return False
    first, last = (movement.snapshots[places[end]].position or 0 for end in (0, -1))
    return last - first >= _UPDATES
