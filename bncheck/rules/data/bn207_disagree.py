"""BN207."""

from __future__ import annotations

from collections.abc import Iterator

from bncheck.core.findings import Finding, Severity
from bncheck.measuring.results import Direction
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.data.objection import GIVE_LABELS
from bncheck.rules.rule import Rule, rule


@rule("BN207", "statistics-disagree", Severity.ERROR, Severity.WARNING)
def disagree(self: Rule[MeasuredNetwork, Finding], network: MeasuredNetwork) -> Iterator[Finding]:
    """Running statistics and data disagree, and no single cause explains it.

    W2 is the RMS error of a layer's normalised output. Below 0.20 at most 0.8 % of predictions
    changed in the networks measured; from 0.40 on, 1 to 89 %.

    Criterion: W2 of the worst layer in the eval cascade, noise of the reference data taken off,
    from 0.20 (warning) or 0.40 (error), where no other explanation predicts it; a warning from 0.10
    where labels show that results are worse than with measured statistics, beyond chance (2.5
    standard errors).

    Fix: check that the data are prepared as in training. Recalibrate if measured statistics restore
    the results, to an accuracy or R2 of 0.95: on blurred or cut images any network does better with
    statistics of these, but not well.
    """
    severity = network.severity or (Severity.WARNING if network.costs_results else None)
    if severity is None:
        return
    if network.direction is Direction.SAME:
        severity = Severity.WARNING
    culprit = network.culprit
    assert culprit.batch is not None
    message = (
        "running statistics and data disagree, most of all in this layer (W2 "
        f"{culprit.batch.w2:.2f}), and no single cause explains it"
    )
    fix = "check that the data are preprocessed as in training; if they are, "
    if network.shown_by_results:
        fix = f"run `{network.recalibrate}`"
    elif not network.labelled:
        fix += GIVE_LABELS
    elif network.objection is not None:
        fix += f"keep the statistics: {network.objection.why}"
    else:
        fix += network.recalibrate_anyway
    yield network.finding(self, severity, culprit, network.with_results(message), fix)
