"""BN208."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bncheck.core.findings import Finding, Severity
from bncheck.measuring.results import Direction
from bncheck.rules.data.claim import LEAST, Claim, Fault
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.rule import Rule, rule


@rule("BN208", "recalibration-would-hurt", Severity.WARNING, Severity.ERROR, Severity.INFO)
def would_hurt(self: Rule[MeasuredNetwork, Finding], network: MeasuredNetwork) -> Iterator[Finding]:
    """The running statistics disagree with the data and yet serve them better than measured ones.

    Some networks were trained with their statistics frozen (fine-tuned detectors above all): their
    weights have adapted to these very numbers, and measuring new ones destroys the network. Or the
    data are not what the network was trained on.

    Criterion: with labels or --metric, the results with measured statistics are worse than with the
    running ones, by more than chance (two standard errors). A warning in inspect, information where
    the running ones reach an accuracy of 0.95; in recalibrate an error, and nothing is written.
    Without labels, recalibrate goes by how sure the model is of its predictions.

    Information where another mixture of the data's classes explains the statistics (BN204) and is
    the more even one, or as much of every class does (75 % of the whole deviation, when batches
    drawn so are run; without labels, classes are the model's predictions): it is these data that
    are one-sided.

    Fix: leave the statistics as they are; check that the data are prepared as in training.
    """
    if network.direction is not Direction.WORSE:
        return
    yield network.finding(
        self,
        Severity.INFO if network.works else Severity.WARNING,
        network.culprit,
        network.with_results(
            f"statistics and data disagree (W2 {network.measurement.w2:.2f}), but results are "
            "better with the running statistics: the network was trained with them frozen, or "
            "the data differ from the training data"
        ),
        "keep the statistics as they are, do not recalibrate; check that the data are "
        "preprocessed as in training",
    )


def one_sided_data(network: MeasuredNetwork) -> Iterator[Claim]:
    """The statistics are those of the data's classes in more even shares; nothing is wrong."""
    mixture = network.mixture
    if mixture is None or not mixture.more_even or mixture.explained < LEAST:
        return
    if network.direction is not Direction.BETTER:
        explained = {m.layer.name: mixture.explained for m in network.layers}
        yield of_one_sided_data(explained, float(mixture.free))


def of_one_sided_data(explained: Mapping[str, float], free: float) -> Claim:
    """The claim, with the share of each layer's deviation that more even shares explain."""
    return Claim(
        would_hurt,
        explained,
        "the classes are distributed otherwise in these data than in those of training",
        advice="measure only with data like those of training",
        fault=Fault.DATA,
        free=free,
        most=Severity.INFO,
        evidence={"explained_mean_shift": max(explained.values(), default=0.0)},
    )
