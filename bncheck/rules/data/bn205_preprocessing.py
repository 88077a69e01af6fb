"""BN205."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from bncheck.core.findings import Severity
from bncheck.measuring.results import Candidate, Direction, fits_better
from bncheck.rules.data.claim import Claim, Fault
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.rule import Rule, rule

#: The first layer alone: this share of the worst of the others, this many times their median. In
#: a real ResNet-44 on clean images one other layer comes as close as 0.93 (it follows the input).
_ALONE: Final = 0.8
_MEDIAN: Final = 2.2
#: Real networks on uncropped images stand at 0.20 to 0.22; this leaves them some room.
_LEAST: Final = 0.15


@rule("BN205", "input-preprocessing-mismatch", Severity.ERROR, Severity.WARNING)
def preprocessing(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """The data are not prepared as those that the statistics were learned on.

    The first layer sees the input directly, so a wrong scale, mean, channel order or crop shows
    there, and deviations further down are its consequence. It says that data and statistics
    disagree, not which of them is at fault: the data may have been prepared wrongly now, or when
    the statistics were last updated. Labels tell.

    Criterion: W2 from 0.20 in the eval cascade, and in the batch cascade the first layer alone
    deviates: 2.2 times the median of the others, about as much as the worst of them, and at least
    0.15. An error where it has 0.40 itself, unless the running statistics serve the data better
    than measured ones and no preparation explains it; else a warning. Or one of the usual
    preparations (0..1, 0..255, ImageNet, 0.5/0.5, red and blue swapped, inverted) fits the first
    layer at least three times better than the data as given.

    Fix: prepare the data as in training. Recalibrate only where deployment prepares them so.
    """
    best = best_candidate(network)
    stem = network.stem.batch
    assert stem is not None
    if best is None and not _alone(network):
        return
    what = f"only the first layer deviates (W2 {stem.w2:.2f}): the data are not preprocessed like "
    what += "the data that the statistics come from"
    if best is not None:
        what += f"; preprocessed as {best.name}, they would fit (W2 {best.w2:.2f})"
        candidate = _candidate_results(network)
        what += f" with {candidate}" if candidate else ""
    weak = network.direction is Direction.WORSE and best is None
    yield Claim(
        self,
        {m.layer.name: 0.95 if best else 0.76 for m in network.layers},
        what,
        advice=f"preprocess the data {_how(best)}",
        fault=Fault.EITHER if _recalibrating_helps(network) else Fault.DATA,
        free=0.5 if best else float(network.stem.layer.channels),
        predicts=best is not None,
        most=(network.thresholds.severity(stem.w2) or Severity.WARNING)
        if not weak
        else Severity.WARNING,
        evidence={
            "candidate": best.name if best else None,
            "candidate_w2": best.w2 if best else None,
            "candidates": [f"{c.name}: {c.w2:.3f}" for c in network.measurement.candidates[:5]],
        },
    )


def _how(best: Candidate | None) -> str:
    return f"as {best.name}" if best else "exactly as in training (including padding and crops)"


def best_candidate(network: MeasuredNetwork) -> Candidate | None:
    """The preparation that explains the first layer, if one does."""
    candidates = network.measurement.candidates
    return candidates[0] if candidates and fits_better(candidates) else None


def _alone(network: MeasuredNetwork) -> bool:
    first, rest = float(network.w2[0]), network.rest
    if len(network.w2) < 3:
        return False
    return (
        first >= _LEAST
        and first > _ALONE * float(rest.max())
        and first > _MEDIAN * float(np.median(rest))
    )


def _candidate_results(network: MeasuredNetwork) -> str:
    comparison = network.measurement.comparison
    if comparison is None or "candidate" not in comparison.extra:
        return ""
    return f"{comparison.metric} {comparison.extra['candidate']:.3f}"


def _recalibrating_helps(network: MeasuredNetwork) -> bool:
    """Measured statistics serve better than the running ones, and no worse than the candidate."""
    comparison = network.measurement.comparison
    if comparison is None or network.direction is not Direction.BETTER or comparison.after is None:
        return False
    candidate = comparison.extra.get("candidate")
    return candidate is None or comparison.after >= candidate - _CHANCE


#: Results this close are equally good: half a point.
_CHANCE: Final = 0.005
