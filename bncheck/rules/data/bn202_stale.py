"""BN202."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.rule import Rule, rule

#: Half of the layers deviate at least so much by themselves.
_TYPICAL: Final = 0.10


@rule("BN202", "stale-statistics", Severity.ERROR, Severity.WARNING)
def stale(self: Rule[MeasuredNetwork], network: MeasuredNetwork) -> Iterator[Finding]:
    """The running statistics belong to other weights: those of earlier in the training.

    Usual causes: averaged weights (EMA, SWA) with the buffers of another time, a checkpoint put
    together from two, layers frozen in eval mode while the weights before them went on learning, a
    momentum too small for how fast the weights moved.

    Criterion: W2 from 0.20 (warning) or 0.40 (error), and in the batch cascade most layers deviate
    by themselves, the median by at least 0.10, in means as well as variances.

    Fix: recalibrate; for averaged weights, average the buffers too or update them at the end
    (torch.optim.swa_utils.update_bn).
    """
    severity = network.severity
    if severity is None or float(np.median(network.w2)) < _TYPICAL or len(network.w2) < 2:
        return
    yield network.finding(
        self,
        severity,
        network.culprit,
        network.with_results(
            f"most layers deviate by themselves (median W2 {float(np.median(network.w2)):.2f}), in "
            "means and variances: the statistics belong to other weights than these, such as "
            "those of an earlier step"
        ),
        f"run `{network.recalibrate}`; if these weights are an average (EMA, SWA), its statistics "
        "have to be measured after averaging",
        median_w2=float(np.median(network.w2)),
    )
