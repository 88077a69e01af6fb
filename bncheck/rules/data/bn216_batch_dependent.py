"""BN216."""

from __future__ import annotations

from collections.abc import Iterator

from bncheck.core.findings import Finding, Severity
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.rule import Rule, rule


@rule("BN216", "batch-dependent-network", Severity.ERROR, Severity.WARNING)
def batch_dependent(
    self: Rule[MeasuredNetwork, Finding], network: MeasuredNetwork
) -> Iterator[Finding]:
    """Batch statistics serve far better than any fixed ones: the network depends on its batch.

    Trained on single images or tiny batches, each layer learned to subtract the mean of the very
    image and to divide by its deviation, like an InstanceNorm. No average over images replaces
    that, so the model is good in train() and bad in eval() whatever its buffers hold.

    Criterion: with labels, the results with the statistics of each batch (of --train-batch-size,
    else of the data's batch size, or of 1 where nothing else serves) are better by at least 0.1
    than with running and with measured ones, and leave at most half of the errors that the better
    of these leaves. An error from W2 0.40, else a warning.

    Fix: train with larger batches, or with GroupNorm or InstanceNorm; until then run the model with
    batch statistics, in batches of the same size. Recalibrating does not help.
    """
    c = network.measurement.comparison
    if c is None or not c.batch_serves_far_better:
        return
    yield network.finding(
        self,
        network.severity or Severity.WARNING,
        network.culprit,
        network.with_results(
            "no fixed statistics suit these data, but those of each batch do: the network was "
            f"trained in batches of about {c.batch_size} and depends on them"
        ),
        "train with larger batches or GroupNorm; until then run it with batch statistics, in such "
        "batches; recalibrating does not help",
        batch=c.batch,
        batch_size=c.batch_size,
    )
