"""BN206."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bncheck.core.findings import Severity
from bncheck.rules.data.claim import LEAST, Claim
from bncheck.rules.data.measured_network import MeasuredNetwork, names
from bncheck.rules.data.scoring import share
from bncheck.rules.rule import Rule, rule


@rule("BN206", "dropout-variance-shift", Severity.WARNING)
def dropout_shift(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """Dropout comes before a BatchNorm layer, whose running variance is that of dropped inputs.

    In training dropout with probability p leaves the mean of its input and raises the mean square
    by 1/(1-p); in eval mode it does nothing, so the layer behind it divides by too much (variance
    shift, Li et al. 2018, https://arxiv.org/abs/1801.05134).

    Criterion: W2 from 0.20 in the eval cascade, and layers with dropout between them and the layer
    before deviate in the batch cascade, where dropout is off, with variances that are too large.
    The batch cascade with dropout on explains at least 75 % of the deviation of such a layer.

    Fix: move dropout behind the last BatchNorm layer, or recalibrate with dropout off, as bncheck
    does (torch's update_bn and fvcore leave it on).
    """
    behind, reruns = network.measurement.behind_dropout, network.measurement.reruns
    shifted = [m for m in network.layers if m.layer.name in behind and network.is_off(m)]
    signed = [m.batch.signed for m in shifted if m.batch is not None]
    if reruns is None or max(signed, default=0.0) <= 0:
        return
    seen = reruns.with_dropout()
    shares = {
        m.layer.name: share(m, seen[m.layer.name].mean, seen[m.layer.name].unbiased_var)
        for m in network.layers
        if m.layer.name in seen
    }
    found = [m for m in shifted if shares.get(m.layer.name, 0.0) >= LEAST]
    if not found:
        return
    yield Claim(
        self,
        shares,
        f"{names(found)}: after dropout, and the running variance is "
        f"{float(np.exp(max(signed))):.2f} times what the layer sees with dropout off",
        advice="in training, move dropout after the last BatchNorm layer",
        free=0.5,
        most=Severity.WARNING,
        stands=True,
        evidence={"p": max(behind.values()), "log_variance_ratio": max(signed)},
    )
