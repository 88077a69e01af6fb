"""BN212."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from bncheck.core.findings import Severity
from bncheck.rules.data.claim import Claim, Fault
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.data.scoring import measured, share, stored
from bncheck.rules.rule import Rule, rule

#: The running variances are at least this many times what the first layer sees.
_LEAST: Final = 3.0
#: The weight of one batch of the last few, for usual momenta.
_MOST_WEIGHT: Final = 0.35


@rule("BN212", "outlier-batch", Severity.ERROR, Severity.WARNING)
def outlier(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """One late batch of another scale is in the running average of the first layer.

    A corrupt file, a batch that was not normalised, a warm-up batch of 255-valued images: with
    momentum 0.1 one batch k times as large raises the first layer's running variance to
    (1 - w) s^2 + w k^2 s^2, w = 0.1 right after it, and hardly moves its mean. The layers behind
    see a normalised batch and stay right.

    Criterion: the first layer alone deviates; its running variances are one factor (from 3) times
    what it sees, in every channel, and no mean is moved as far as data on another scale would move
    it; together this explains at least 75 % of the deviation. The data themselves are on the usual
    scale.

    Fix: recalibrate; find the batch, or clip the inputs.
    """
    stem = network.stem
    if not network.stem_alone or not network.usual_scale:
        return
    (mean, var), (seen_mean, seen_var) = stored(stem), measured(stem)
    live = (var > 0) & (seen_var > 0)
    if not live.any():
        return
    factor = float(np.exp(np.median(np.log(var[live] / seen_var[live]))))
    if factor < _LEAST:
        return
    moved = mean - seen_mean
    slope = float(moved @ seen_mean / max(float(seen_mean @ seen_mean), 1e-12))
    if slope > 0 and (factor - 1) / slope - 1 < 1 / _MOST_WEIGHT:
        slope = 0.0
    explained = share(stem, seen_mean * (1 + slope), factor * seen_var, 2)
    yield Claim(
        self,
        {stem.layer.name: explained},
        f"the running variances are {factor:.3g} times what the first layer sees and the rest is "
        "right: a late batch on another scale is in the average",
        advice="find the batch that was on another scale",
        fault=Fault.STATISTICS,
        free=2.0,
        evidence={"factor": factor},
    )
