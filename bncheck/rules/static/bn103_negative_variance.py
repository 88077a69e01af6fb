"""BN103."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import count
from bncheck.rules.rule import Network, Rule, rule

_TAKE: Final = "take the statistics from before the merge or conversion"


@rule("BN103", "negative-variance", Severity.ERROR)
def negative_variance(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """A running variance is negative, which no average of variances can be.

    If variance + eps is below zero its root is NaN; just above, the channel is amplified out of all
    proportion (a variance of -1e-6 gave a gain of 333). Causes: eps subtracted from the variance
    (old FrozenBatchNorm files), checkpoints merged with a negative weight, momentum outside 0..1.

    Criterion: any running variance < 0, or a negative eps, which makes one of small variances.

    Fix: recalibrate with data, or take the statistics from the checkpoint before the merge.
    """
    for layer in network.suspects(lambda c: c.any(c.var < 0) | (c.eps < 0)):
        if -math.inf < (layer.eps.value or 0.0) < 0:
            yield self.finding(
                Severity.ERROR,
                layer.name,
                f"eps is {layer.eps.value:g}: what is divided by is the root of variance + eps",
                "build the model with the eps that it was trained with, and save it again",
            )
            continue
        if layer.var is None:
            continue
        var = layer.var.astype(np.float64)
        negative = var < 0
        if negative.any():
            lowest = float(var[negative].min())
            yield self.finding(
                Severity.ERROR,
                layer.name,
                f"running variance is negative in {count(int(negative.sum()), 'channel')} "
                f"of {layer.channels}, lowest {lowest:.3g}",
                f"recalibrate with data, or {_TAKE}",
                instead=_TAKE,
                channels=int(negative.sum()),
                minimum=lowest,
            )
