"""BN206."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from bncheck.core.findings import Severity
from bncheck.rules.data.claim import Claim
from bncheck.rules.data.measured_network import MeasuredNetwork, names
from bncheck.rules.rule import Rule, rule

#: ln(running_var / var) of layers behind dropout, and how much less the others have.
_SIGNED: Final = 0.08
_OTHERS: Final = 0.5


@rule("BN206", "dropout-variance-shift", Severity.WARNING)
def dropout_shift(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """Dropout comes before a BatchNorm layer, whose running variance is that of dropped inputs.

    In training dropout with probability p leaves the mean of its input and raises the mean square
    by 1/(1-p); in eval mode it does nothing, so the layer behind it divides by too much (variance
    shift, Li et al. 2018, https://arxiv.org/abs/1801.05134).

    Criterion: W2 from 0.20 in the eval cascade, and in the batch cascade (dropout off) the layers
    right behind a dropout have running variances that are too large, by at least 8 %, and the
    others at most half as much.

    Fix: move dropout behind the last BatchNorm layer, or recalibrate with dropout off, as bncheck
    does (torch's update_bn and fvcore leave it on).
    """
    behind = network.measurement.behind_dropout
    shifted = [m for m in network.layers if m.layer.name in behind and m.batch is not None]
    others = [m.batch for m in network.layers if m.layer.name not in behind and m.batch is not None]
    if not shifted:
        return
    signed = [m.batch.signed for m in shifted if m.batch is not None]
    least = float(np.median(signed))
    if least < _SIGNED or min(signed) < 0:
        return
    if others and max(abs(d.signed) for d in others) > _OTHERS * least:
        return
    yield Claim(
        self,
        {m.layer.name: 0.8 for m in shifted},
        f"{names(shifted)}: after dropout, and the running variance is "
        f"{float(np.exp(max(signed))):.2f} times what the layer sees with dropout off",
        advice="or move dropout after the last BatchNorm layer and train again",
        free=0.5,
        most=Severity.WARNING,
        evidence={"p": max(behind.values()), "log_variance_ratio": max(signed)},
    )
