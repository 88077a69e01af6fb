"""BN302."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bncheck.core.findings import Finding, Severity
from bncheck.rules.rule import Rule, rule
from bncheck.rules.series.changes import changes_of

if TYPE_CHECKING:
    from bncheck.series.movement import Movement


@rule("BN302", "moving-parameters-frozen-statistics", Severity.WARNING)
def frozen_statistics(self: Rule[Movement, Finding], movement: Movement) -> Iterator[Finding]:
    """Weight and bias of a layer train on while its running statistics stand still.

    With momentum 0, or a layer left in eval(), the statistics stay those of an earlier network. On
    purpose where small batches are fine-tuned with the statistics of a large data set; then they
    must have fitted from the start, which `bncheck inspect --data` tells.

    Criterion: between two snapshots weight or bias differs and mean and variance are equal, bit for
    bit.

    Fix: a momentum of 0.1, or .train() on the layer; recalibrate what was trained already.
    """
    for name in movement.layers:
        places = [
            change.place
            for change in changes_of(movement, name)
            if change.parameters and not change.statistics
        ]
        if places:
            since = movement.snapshots[places[0] - 1].label
            momentum = movement.snapshots[-1].states[name].momentum
            told = " (momentum 0)" if momentum == 0 else ""
            yield self.finding(
                Severity.WARNING,
                name,
                f"its weight and bias have moved since {since}, but its running statistics have "
                f"not, to the last bit{told}",
                "train with momentum 0.1 and the layer in train(); recalibrate with data",
                since=since,
                intervals=len(places),
            )
