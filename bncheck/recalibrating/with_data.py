"""Population statistics in the batch cascade, dropout off, and what they would do to the model.

Mean and variance are pooled over all values, so the variance has its part between batches, a short
last batch weighs what it is, and sorted data do no harm. A layer that saw nothing keeps its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding
from bncheck.data import Batches
from bncheck.inspecting.diagnosis import diagnose
from bncheck.inspecting.from_file import InspectOptions, static_findings
from bncheck.inspecting.with_data import beyond_repair, stops
from bncheck.layers.norm_layer import NormLayer
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.measure import looks_at_all, measure, measure_population
from bncheck.measuring.measurement import Measurement, measured_statistics
from bncheck.measuring.run import Run
from bncheck.recalibrating.counters import new_counters
from bncheck.recalibrating.report import RecalibrationReport
from bncheck.recalibrating.verdict import Refusal, objected, refusal
from bncheck.rules.data.objection import objection, unproven
from bncheck.rules.registry import RULES
from bncheck.subject.setup import Measuring

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Statistics = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


def recalibrate_with_data(
    subject: Instrumented,
    layers: tuple[NormLayer, ...],
    measuring: Measuring,
    options: InspectOptions,
) -> RecalibrationReport:
    """Measure and judge as `inspect` does, and what measured statistics do. Raises BncheckError."""
    from bncheck.measuring.proving import proven

    run = measuring.run(options.train_batch_size, thresholds=options.thresholds)
    data = measuring.batches()
    subject = proven(subject, data, run)
    found = static_findings(None, layers, options)
    if not measuring.force:
        _refuse_beyond_repair(found)
    measurement, refused = _judged(subject, layers, data, run, found)
    if (refused is None or measuring.force) and not _is_whole(measurement):
        measurement = measure(subject, layers, data, replace(run, everything=True))
        refused = refused or objected(objection(measurement) or unproven(measurement))
    report = _report(subject, measurement)
    if refused is None:
        return report
    findings = () if refused.needless else (refused.finding(measurement, measuring.force),)
    if measuring.force:
        return replace(report, findings=findings, forced=refused.why)
    return replace(report, findings=findings, reason=refused.why)


def _refuse_beyond_repair(found: Sequence[Finding]) -> None:
    for finding in filter(beyond_repair, found):
        what = f"{finding.message} ({finding.rule}), which new statistics do not repair"
        raise BncheckError(what, finding.fix, finding.layer or "")


def _judged(
    subject: Instrumented,
    layers: tuple[NormLayer, ...],
    data: Batches,
    run: Run,
    found: Sequence[Finding],
) -> tuple[Measurement, Refusal | None]:
    """What `inspect` measures of the same input, and why it would not recalibrate."""
    if any(stops(finding) for finding in found):
        measurement = measure_population(subject, layers, data, run)
        return measurement, objected(objection(measurement))
    measurement = measure(subject, layers, data, run)
    return measurement, refusal(diagnose(measurement, found, RULES, ""), measurement)


def _is_whole(measurement: Measurement) -> bool:
    """Whether every layer that data reach was measured with all of them."""
    return looks_at_all(measurement) or not measurement.reached


def _report(subject: Instrumented, measurement: Measurement) -> RecalibrationReport:
    measured, comparison = measurement.layers, measurement.comparison
    statistics = measured_statistics(measured)
    _refuse_non_finite(statistics)
    return RecalibrationReport(
        tuple(m.layer.name for m in measured),
        {m.layer.name: m.eval.w2 if m.eval else None for m in measured},
        measurement.restored,
        statistics,
        new_counters([m.layer for m in measured if m.layer.name in statistics]),
        tuple(m.layer.name for m in measured if not (m.eval or m.layer.name in statistics)),
        subject.in_file(subject.unmeasured),
        comparison,
        comparison.samples if comparison else measurement.samples,
        prefix=subject.prefix,
        tensors={m.layer.name: m.layer.tensors for m in measured},
    )


def _refuse_non_finite(statistics: Statistics) -> None:
    for name, (mean, var) in statistics.items():
        if not (np.isfinite(mean).all() and np.isfinite(var).all()):
            raise BncheckError(
                f"layer {name} sees NaN or infinity", "the weights before it are damaged"
            )
