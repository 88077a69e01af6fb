"""BN217."""

from __future__ import annotations

from collections.abc import Iterator

from bncheck.core.findings import Finding, Severity
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.rule import Rule, rule


@rule("BN217", "harmless-deviation", Severity.WARNING, Severity.INFO)
def harmless(self: Rule[MeasuredNetwork, Finding], network: MeasuredNetwork) -> Iterator[Finding]:
    """The statistics are off, and it makes no difference: results are equal with measured ones.

    A network that was fine-tuned with its norms in eval() has weights that fit these very numbers;
    so may one whose statistics belong to other weights. Labels cannot tell the two apart where both
    serve as well.

    Criterion: W2 from 0.20, no explanation predicts it, and with labels or --metric the results
    with running and with measured statistics are equal within chance. Information where they differ
    by less than one standard error and most layers deviate, as after training with frozen norms, or
    where the accuracy is at least 0.95 and measured statistics gain nothing; a warning otherwise.

    Fix: none where the norms were frozen on purpose; else check the data and recalibrate.
    """
    comparison = network.measurement.comparison
    if network.severity is None or comparison is None:
        return
    slight = comparison.gain is None or comparison.gain <= 1
    slight = slight and len(network.off) > len(network.layers) / 2
    slight = slight or (comparison.gain or 0.0) <= 0
    slight = slight and (network.works or comparison.metric != "accuracy")
    yield network.finding(
        self,
        Severity.INFO if slight else Severity.WARNING,
        network.culprit,
        network.with_results(
            f"statistics and data disagree (W2 {network.measurement.w2:.2f}), and it makes no "
            "difference here"
        ),
        "if the norms were frozen in training, nothing is needed; if they were not and these data "
        f"are what deployment sees, {network.recalibrate_anyway}",
    )
