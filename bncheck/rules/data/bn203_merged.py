"""BN203."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from bncheck.core.findings import Severity
from bncheck.measuring.measurement import MeasuredLayer
from bncheck.rules.data.claim import Claim
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.data.scoring import parts
from bncheck.rules.rule import Rule, rule

#: Median ln(running_var / var), and the share of W2^2 that may be due to means.
_SIGNED: Final = 0.4
_MEAN_SHARE: Final = 0.4
#: More models are not averaged: their variance falls to about 1 / n.
_MOST: Final = 3.0
#: The share of layers with running variances that are too large.
_DEVIATING: Final = 0.6
#: How much ln(running_var / var) differs between the channels of a layer.
_SPREAD: Final = 0.15


@rule("BN203", "merged-statistics", Severity.ERROR, Severity.WARNING)
def merged(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """The weights are an average of several models, and their activations have lost variance.

    Units of two trainings do not correspond, so their average answers to nothing: the variance of
    activations collapses layer by layer, while the running variances are those of the models that
    were averaged (REPAIR, Jordan et al. 2022, https://arxiv.org/abs/2211.08403). Averages of late
    snapshots of one training do not suffer from it.

    Criterion: W2 from 0.20 (warning) or 0.40 (error), and in the batch cascade nearly all layers
    have running variances that are too large (median ln(running_var / var) of 0.4 to 3), with means
    that are hardly off. Of n models a channel keeps between 1 / n and all of its variance, and its
    mean is theirs: a layer is explained as far as its channels lost variance,
    sum max(0, ln(sigma_r / sigma))^2 / sum e^2.

    Fix: recalibrate, which restores the variance. If the accuracy stays low the models do not
    belong together: align their units before averaging, or average within one training.
    """
    signed = np.array([d.signed for d in network.batch])
    shares = np.array([d.mean_share for d in network.batch])
    spread = np.array([float(d.log_variance_ratio.std()) for d in network.batch])
    if len(signed) < 2 or float(np.median(shares)) > _MEAN_SHARE:
        return
    if float(np.median(signed)) < _SIGNED or float((signed > _SIGNED / 2).mean()) < _DEVIATING:
        return
    if float(np.median(signed)) > _MOST:
        return
    if float(np.median(spread)) < _SPREAD:  # one factor in every channel is a unit, not a collapse
        return
    yield Claim(
        self,
        {m.layer.name: _lost(m) for m in network.layers},
        f"the running variances are {float(np.exp(np.median(signed))):.1f} times what the "
        "layers see, in nearly every layer: the weights look like an average of several "
        "models, whose activations have lost their variance",
        advice="if results stay poor, these models should not be averaged",
        free=float(network.stem.layer.channels),
        predicts=False,
        evidence={"log_variance_ratio": float(np.median(signed))},
    )


def _lost(m: MeasuredLayer) -> float:
    """The share of a layer's deviation that is variance lost."""
    d, log = parts(m, *m.seen)
    whole = float(np.sum(d**2 + log**2))
    return float(np.sum(np.maximum(log, 0) ** 2)) / whole if whole > 0 else 0.0
