"""BN204."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.rule import Rule, rule

_SIGNED: Final = -0.12
_TYPICAL: Final = 0.10
#: The worst layer lies in this last part of the network.
_DEEP: Final = 0.5


@rule("BN204", "ordered-batches", Severity.ERROR, Severity.WARNING)
def ordered(self: Rule[MeasuredNetwork], network: MeasuredNetwork) -> Iterator[Finding]:
    """The statistics were last updated on batches of one kind: sorted by class, scene or time.

    Such batches vary less than the data as a whole, and the more so the deeper the layer, because
    deep layers tell classes apart. The running average ends with the variance within the last few
    classes, not with that between them.

    Criterion: W2 from 0.20 (warning) or 0.40 (error); in the batch cascade a deep layer deviates
    most and its running variance is too small (mean ln(running_var / var) below -0.12, and not by
    a few channels alone), while the median layer is right (W2 below 0.10).

    Fix: recalibrate with shuffled data; shuffle in training.
    """
    severity = network.severity
    if severity is None or len(network.w2) < 2:
        return
    place = int(np.argmax(network.w2))
    deepest = network.batch[place]
    if place < _DEEP * (len(network.w2) - 1) or deepest.signed > _SIGNED:
        return
    if float(np.median(deepest.log_variance_ratio)) > _SIGNED / 2:  # a few broken channels
        return
    if float(np.median(network.w2)) >= _TYPICAL:
        return
    yield network.finding(
        self,
        severity,
        network.culprit,
        network.with_results(
            "early layers are right, and deep ones remember "
            f"{float(np.exp(deepest.signed)):.0%} of the variance they see: the last batches of "
            "training were alike, as when the data are sorted by class"
        ),
        f"run `{network.recalibrate}`; shuffle in training, as bncheck does with files and folders",
        log_variance_ratio=deepest.signed,
    )
