"""BN307."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.errors import quoted
from bncheck.core.findings import Finding, Severity
from bncheck.rules.rule import Rule, rule

if TYPE_CHECKING:
    from bncheck.reading.training_state import TrainingState
    from bncheck.series.movement import Movement
    from bncheck.series.snapshot import Snapshot

#: Updates in a row whose loss is not finite: a loss scale that is too high needs a few to come
#: down, and the loss of a batch without labels is NaN.
_UPDATES: Final = 20


@rule("BN307", "non-finite-training", Severity.ERROR)
def non_finite_training(self: Rule[Movement, Finding], movement: Movement) -> Iterator[Finding]:
    """The loss or a weight is NaN or infinite, while all running statistics are finite.

    A head that nothing normalises, a loss that takes the logarithm of 0, or a loss scaler that
    skips every update: the statistics look sound, but the network no longer learns.

    Criterion: in a record, the loss that was reported is not finite for at least 20 updates in a
    row, or a trained weight that was finite at the beginning no longer is, by a sample of 16 of its
    numbers; and the layers with running statistics are finite (otherwise it is BN102).

    Fix: go back to a checkpoint from before that step; look at what the loss divides by and takes
    logarithms of, and skip batches whose loss is not finite.
    """
    first = movement.snapshots[0].training
    for snapshot in movement.snapshots:
        told = snapshot.training
        if told is None or first is None or not _norms_are_finite(snapshot):
            continue
        what = _not_finite(told, first, snapshot.label)
        if what:
            yield self.finding(
                Severity.ERROR,
                None,
                f"{' and '.join(what)}, while all running statistics are finite",
                "go back to a checkpoint from before it, and skip batches whose loss is not finite",
                snapshot=str(snapshot.path),
            )
            return


def _not_finite(told: TrainingState, first: TrainingState, label: str) -> list[str]:
    """What is not finite at a snapshot, in words; a loss alone only after some updates."""
    what = []
    if told.bad_weight is not None and told.bad_weight != first.bad_weight:
        name = quoted(told.bad_weight)
        what.append(f"weights hold NaN or infinity at {label} ({name} is the first)")
    if told.bad_since is not None and (what or (told.step or 0) - told.bad_since >= _UPDATES):
        to = "" if what else f" to {label}"
        what.append(f"the loss is not finite from step {told.bad_since:,}{to}")
    return what


def _norms_are_finite(snapshot: Snapshot) -> bool:
    """Whether statistics are finite, and weight and bias as far as samples of them tell."""
    return all(
        state.usable and (state.sample is None or bool(np.isfinite(state.sample).all()))
        for state in snapshot.states.values()
    )
