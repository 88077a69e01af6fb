"""BN302."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from bncheck.core.findings import Finding, Severity
from bncheck.rules.rule import Rule, rule
from bncheck.rules.series.changes import changes_of

if TYPE_CHECKING:
    from bncheck.series.movement import Movement

_WHETHER: Final = "`bncheck inspect --data` tells whether to recalibrate what is trained"


@rule("BN302", "moving-parameters-frozen-statistics", Severity.WARNING)
def frozen_statistics(self: Rule[Movement, Finding], movement: Movement) -> Iterator[Finding]:
    """Weight and bias of a layer train on while its running statistics stand still.

    With momentum 0, or a layer left in eval(), the statistics stay those of an earlier network. On
    purpose where small batches are fine-tuned with the statistics of a large data set; then they
    must have fitted from the start, which `bncheck inspect --data` tells.

    Criterion: between two snapshots weight or bias differs and mean and variance are equal, bit for
    bit.

    Fix: a momentum of 0.1, or .train() on the layer; `bncheck inspect --data` tells whether to
    recalibrate what was trained already (weights that were trained in eval() fit what they had). An
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
            told, fix = _why(movement, name, places)
            yield self.finding(
                Severity.WARNING,
                name,
                f"its weight and bias have moved since {since}, but its running statistics have "
                f"not, to the last bit{told}",
                fix,
                since=since,
                intervals=len(places),
            )


def _why(movement: Movement, name: str, places: Sequence[int]) -> tuple[str, str]:
    """Why they stand still, as far as it is known, and what to do."""
    if movement.snapshots[-1].states[name].momentum == 0:
        return " (momentum 0)", f"train with momentum 0.1; {_WHETHER}"
    still = [movement.snapshots[place] for place in places]
    told = [snapshot.training for snapshot in still if snapshot.training is not None]
    seen = [training.seen[name] for training in told if name in training.seen]
    if seen and all(one.training is False for one in seen):
        return " (the layer is in eval())", (
            f"call train() on the layer, unless it is in eval() on purpose; {_WHETHER}"
        )
    before = [snapshot.training for snapshot in movement.snapshots if snapshot.training is not None]
    if told and not seen and any(name in training.seen for training in before):
        return ", and it has seen no batch in train() since", (
            f"call train() on the network, unless it is in eval() on purpose; {_WHETHER}"
        )
    if told and not seen:
        return ", and it has seen no batch", (
            "of an average of weights copy the buffers of the trained model, too "
            "(use_buffers=True), or recalibrate it with data; what is trained belongs in train()"
        )
    return "", f"train with momentum 0.1 and the layer in train(); {_WHETHER}"
