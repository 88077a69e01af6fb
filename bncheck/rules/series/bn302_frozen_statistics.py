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

    Fix: a momentum of 0.1, or .train() on the layer; recalibrate what was trained already. An
    average of weights (EMA) that nobody trains: copy the buffers of the trained model with the
    weights (use_buffers=True), or recalibrate.
    """
    for name in movement.layers:
        places = [
            change.place
            for change in changes_of(movement, name)
            if change.parameters and not change.statistics
        ]
        if places:
            since = movement.snapshots[places[0] - 1].label
            told, fix = _why(movement, name)
            yield self.finding(
                Severity.WARNING,
                name,
                f"its weight and bias have moved since {since}, but its running statistics have "
                f"not, to the last bit{told}",
                fix,
                since=since,
                intervals=len(places),
            )


def _why(movement: Movement, name: str) -> tuple[str, str]:
    """Why they stand still, as far as it is known, and what to do."""
    if movement.snapshots[-1].states[name].momentum == 0:
        return " (momentum 0)", "train with momentum 0.1; recalibrate with data"
    told = [snapshot.training for snapshot in movement.snapshots if snapshot.training is not None]
    seen = [training.seen[name] for training in told if name in training.seen]
    if seen and all(one.training is False for one in seen):
        return " (the layer is in eval())", (
            "call train() on the layer and recalibrate with data; if it is in eval() on purpose, "
            "`bncheck inspect --data` tells whether its statistics fit"
        )
    if told and not seen:
        return ", and it has seen no batch", (
            "of an average of weights copy the buffers of the trained model, too "
            "(use_buffers=True), or recalibrate it with data; what is trained belongs in train()"
        )
    return "", "train with momentum 0.1 and the layer in train(); recalibrate with data"
