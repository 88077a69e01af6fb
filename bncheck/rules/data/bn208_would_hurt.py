"""BN208."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bncheck.core.findings import Finding, Severity
from bncheck.measuring.results import Direction
from bncheck.rules.data.bn204_ordered import class_mixture
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.rule import Rule, rule

#: The share of the shifted means that another mixture of the classes explains.
_EXPLAINED: Final = 0.88


@rule("BN208", "recalibration-would-hurt", Severity.WARNING, Severity.ERROR, Severity.INFO)
def would_hurt(self: Rule[MeasuredNetwork, Finding], network: MeasuredNetwork) -> Iterator[Finding]:
    """The running statistics disagree with the data and yet serve them better than measured ones.

    Some networks were trained with their statistics frozen (fine-tuned detectors above all): their
    weights have adapted to these very numbers, and measuring new ones destroys the network. Or the
    data are not what the network was trained on.

    Criterion: with labels or --metric, the results with measured statistics are worse than with the
    running ones, by more than chance (two standard errors). A warning in inspect; in recalibrate
    an error, and nothing is written. Without labels, recalibrate goes by how sure the model is of
    its predictions.

    Fix: leave the statistics as they are; check that the data are prepared as in training.
    """
    if network.direction is not Direction.WORSE:
        return
    mixture = class_mixture(network)
    if mixture is not None and mixture[0] >= _EXPLAINED:
        yield network.finding(
            self,
            Severity.INFO,
            network.stem,
            network.with_results(
                "the classes are distributed otherwise in these data than in those of training"
            ),
            "keep the statistics as they are, or measure with data like the training data",
            explained=mixture[0],
        )
        return
    yield network.finding(
        self,
        Severity.WARNING,
        network.culprit,
        network.with_results(
            f"statistics and data disagree (W2 {network.measurement.w2:.2f}), but results are "
            "better with the running statistics: the network was trained with them frozen, or "
            "the data differ from the training data"
        ),
        "keep the statistics as they are, do not recalibrate; check that the data are "
        "preprocessed as in training",
    )
