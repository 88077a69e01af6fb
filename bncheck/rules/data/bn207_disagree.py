"""BN207."""

from __future__ import annotations

from collections.abc import Iterator

from bncheck.core.findings import Finding, Severity
from bncheck.measuring.results import Direction
from bncheck.rules.data.case import Case
from bncheck.rules.data.rule import MeasuredRule, measured_rule


@measured_rule("BN207", "statistics-disagree", Severity.ERROR, Severity.WARNING)
def disagree(self: MeasuredRule, case: Case) -> Iterator[Finding]:
    """Running statistics and data disagree, and no single cause explains it.

    W2 is the RMS error of a layer's normalised output. Below 0.20 at most 0.8 % of predictions
    changed in the networks measured; from 0.40 on, 1 to 89 %.

    Criterion: W2 of the worst layer in the eval cascade, noise of the reference data taken off,
    from 0.20 (warning) or 0.40 (error), where BN201 to BN206 do not apply.

    Fix: check that the data are prepared as in training. Recalibrate if the results are better
    with measured statistics.
    """
    severity = case.severity
    if severity is None:
        return
    culprit = case.culprit
    assert culprit.batch is not None
    message = f"running statistics and data disagree, this layer's most (W2 {culprit.batch.w2:.2f})"
    if case.direction is Direction.BETTER:
        fix = f"run `{case.recalibrate}`"
    elif case.direction is Direction.UNKNOWN:
        fix = (
            "check that the data are prepared as in training; if they are, run "
            f"`{case.recalibrate}` with labels, so that it can prove that it helps"
        )
    else:
        fix = (
            "check that the data are prepared as in training; results are as good with measured "
            f"statistics, so if they are, run `{case.recalibrate}`"
        )
    yield case.finding(self, severity, culprit, case.with_results(message), fix)
