"""Population statistics in the batch cascade, dropout off, and what they would do to the model.

Mean and variance are pooled over all values, so the variance has its part between batches, a short
last batch weighs what it is, and sorted data do no harm. A layer that saw nothing keeps its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.core.findings import Severity
from bncheck.inspecting.diagnosis import Advice, diagnose
from bncheck.inspecting.from_file import InspectOptions, static_findings
from bncheck.layers.norm_layer import NormLayer
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.measurement import measured_statistics
from bncheck.recalibrating.counters import new_counters
from bncheck.recalibrating.report import RecalibrationReport
from bncheck.recalibrating.verdict import with_verdict
from bncheck.rules.registry import RULES
from bncheck.rules.static.bn102_non_finite import non_finite
from bncheck.rules.static.bn103_negative_variance import negative_variance
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
    """Measure, and judge what the measured statistics do. Raises BncheckError."""
    from bncheck.measuring.measure import measure, measure_population
    from bncheck.measuring.proving import proven

    run = measuring.run(options.train_batch_size, True, options.thresholds)
    data = measuring.batches()
    subject = proven(subject, data, run)
    found = static_findings(None, layers, options)
    broken = any(
        f.severity is Severity.ERROR and (non_finite.made(f) or negative_variance.made(f))
        for f in found
    )
    examine = measure_population if broken else measure
    measurement = examine(subject, layers, data, run)
    measured = measurement.layers
    statistics = measured_statistics(measured)
    _refuse_non_finite(statistics)
    comparison = measurement.comparison
    report = RecalibrationReport(
        tuple(m.layer.name for m in measured),
        {m.layer.name: m.eval.w2 if m.eval else None for m in measured},
        measurement.restored,
        statistics,
        new_counters([m.layer for m in measured if m.layer.name in statistics]),
        tuple(m.layer.name for m in measured if m.layer.name not in statistics),
        subject.in_file(subject.unmeasured),
        comparison,
        comparison.samples if comparison else measurement.samples,
        prefix=subject.prefix,
        tensors={m.layer.name: m.layer.tensors for m in measured},
    )
    if measuring.force:
        return report
    advice = Advice.RECALIBRATE if broken else diagnose(measurement, found, RULES, "").advice
    return with_verdict(report, measurement, options.thresholds, advice)


def _refuse_non_finite(statistics: Statistics) -> None:
    for name, (mean, var) in statistics.items():
        if not (np.isfinite(mean).all() and np.isfinite(var).all()):
            raise BncheckError(
                f"layer {name} sees NaN or infinity", "the weights before it are damaged"
            )
