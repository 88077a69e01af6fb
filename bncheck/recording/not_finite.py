"""What is said of a layer that is not finite: since when, after which batch, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import count
from bncheck.recording.clock import number_of
from bncheck.rules.static.bn102_non_finite import non_finite

if TYPE_CHECKING:
    from bncheck.recording.clock import Clock
    from bncheck.recording.observed import Observed


def found_not_finite(layers: Sequence[str], step: int, observed: Observed, clock: Clock) -> Finding:
    """BN102 on the first of the layers, all of them not finite since `step`."""
    more = f" and in {count(len(layers) - 1, 'more layer')}" if len(layers) > 1 else ""
    what = _circumstances(observed, clock)
    return non_finite.finding(
        Severity.ERROR,
        layers[0],
        f"NaN or infinity here{more} for the first time after step {step:,}{what}",
        f"{_way_back(step, clock.bad_since)}; skip non-finite batches while training, "
        "and keep half precision below 65504",
    )


def _circumstances(observed: Observed, clock: Clock) -> str:
    """What the batch of that step was like, as far as it is known."""
    parts = []
    now = observed.meter.largest()
    reached = next((name for name, value in now.items() if not np.isfinite(value)), None)
    if reached is not None:
        parts.append(f"the batch reached {reached or 'the layer'} not finite")
    largest = {n: v for n, v in (now or observed.largest).items() if np.isfinite(v) or not now}
    if largest:
        name = max(largest, key=lambda name: largest[name])
        when = "" if now else " when last recorded"
        parts.append(f"largest activation {largest[name]:.3g} in {name}{when}")
    loss = number_of(clock.loss)
    since = clock.bad_since
    long = "" if since in (None, clock.step) else f", not finite since step {since:,}"
    parts += [] if loss is None else [f"loss {loss:.4g}{long}"]
    parts += [] if clock.lr is None else [f"learning rate {clock.lr:g}"]
    return f" ({', '.join(parts)})" if parts else ""


def _way_back(step: int, loss_since: int | None) -> str:
    """Which checkpoint is sound: at the step before, weights that no layer shows may be bad."""
    first = step if loss_since is None else min(step, loss_since)
    if first <= 2:
        return "start anew"
    return (
        f"go back to a checkpoint of step {first - 2:,} or earlier; a later one whose weights are "
        "finite can be recalibrated with data"
    )
