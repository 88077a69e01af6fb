"""BN301."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bncheck.core.findings import Finding, Severity
from bncheck.rules.rule import Rule, rule
from bncheck.rules.series.changes import changes_of

if TYPE_CHECKING:
    from bncheck.series.movement import Movement


@rule("BN301", "frozen-parameters-moving-statistics", Severity.WARNING)
def frozen_parameters(self: Rule[Movement, Finding], movement: Movement) -> Iterator[Finding]:
    """Weight and bias of a layer stand still while its running statistics move.

    requires_grad=False freezes parameters, not buffers: in train() the statistics follow the new
    data all the same, and a backbone that was meant to stay as it was no longer is.

    Criterion: between two snapshots weight and bias are equal, bit for bit, the statistics are not,
    and some other weight of the file has moved meanwhile; where nothing else moves the statistics
    were recalibrated, which is not a fault.

    Fix: call .eval() on the frozen layers after every model.train(), or let them train.
    """
    suspects = {name: places for name in movement.layers if (places := _suspicious(movement, name))}
    if not suspects:
        return
    # One look at two files, whatever the length of the run.
    first = min(places[0] for places in suspects.values())
    last = max(places[-1] for places in suspects.values())
    if not movement.weights_moved(first - 1, last):
        return
    for name, places in suspects.items():
        since = movement.snapshots[places[0] - 1].label
        yield self.finding(
            Severity.WARNING,
            name,
            f"its running statistics have moved since {since}, but its weight and bias have "
            "not: only its parameters were frozen",
            "call .eval() on frozen layers after model.train(), or let them train",
            since=since,
            intervals=len(places),
        )


def _suspicious(movement: Movement, name: str) -> list[int]:
    """Where parameters stood still and statistics did not."""
    return [
        change.place
        for change in changes_of(movement, name)
        if change.has_parameters and change.statistics and not change.parameters
    ]
