"""Whether new statistics may be written: not where they serve the data worse."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from bncheck.core.findings import Severity
from bncheck.core.thresholds import Thresholds
from bncheck.inspecting.diagnosis import Advice
from bncheck.measuring.measurement import Measurement
from bncheck.measuring.results import Comparison, Direction
from bncheck.recalibrating.report import RecalibrationReport
from bncheck.rules.data.bn208_would_hurt import would_hurt

#: Without labels: a model that was sure of itself, most of whose predictions stay, and whose doubt
#: (1 - mean confidence) grows this many times, and by this much, has become worse.
_SURE: Final = 0.85
_MOST_FLIPS: Final = 0.3
_DOUBT_FACTOR: Final = 3.0
_DOUBT_GROWTH: Final = 0.005


def with_verdict(
    report: RecalibrationReport,
    measurement: Measurement | None,
    thresholds: Thresholds,
    advice: Advice,
) -> RecalibrationReport:
    """BN208 where the new statistics serve worse, or do not even agree with the data."""
    reason = _worse(report, thresholds) or _unproven(advice, report.comparison)
    if reason is None:
        return report
    finding = would_hurt.finding(
        Severity.ERROR,
        None,
        f"nothing was written: {reason}",
        "keep the statistics as they are; check that the data are preprocessed as in training",
        w2=measurement.w2 if measurement else None,
        before=report.comparison.before if report.comparison else None,
        after=report.comparison.after if report.comparison else None,
    )
    return replace(report, reason=reason, findings=(finding,))


def _unproven(advice: Advice, results: Comparison | None) -> str | None:
    """Why `inspect` on the same input does not say to recalibrate."""
    if advice is Advice.LEAVE:
        return "the statistics are not at fault as far as these data show; --force writes them"
    if advice is Advice.IF_DATA_FIT:
        return (
            "data and statistics disagree, and nothing shows that it is the statistics; --force "
            "writes them, where these data are those of deployment"
        )
    better = results is not None and results.direction is Direction.BETTER
    if advice is Advice.NOTHING and not better:
        return (
            "the running statistics agree with the data, and measured ones would not be better; "
            "--force writes them"
        )
    return None


def _worse(report: RecalibrationReport, thresholds: Thresholds) -> str | None:
    c = report.comparison
    assert c is not None
    if c.direction is Direction.WORSE:
        return (
            f"{c.metric} would fall from {c.before:.3f} to {c.after:.3f}; the running "
            "statistics do better on these data than measured ones"
        )
    old = max((w2 for w2 in report.before.values() if w2 is not None), default=math.inf)
    new = max((w2 for w2 in report.after.values() if w2 is not None), default=0.0)
    if thresholds.severity(new) is not None and new >= old:
        return f"W2 would not fall (from {old:.2f} to {new:.2f})"
    if c.direction is Direction.UNKNOWN and old < math.inf and _doubts_more(c):
        assert c.confidence is not None
        return (
            "without labels there is only the model's confidence to go by, and it would fall from "
            f"{c.confidence[0]:.3f} to {c.confidence[1]:.3f}"
        )
    return None


def _doubts_more(c: Comparison) -> bool:
    """Whether a model that knew what it said knows less.

    A model with wrong statistics can be sure of nonsense, so one most of whose predictions change
    is not believed.
    """
    if c.confidence is None or c.flips is None or c.flips > _MOST_FLIPS:
        return False
    before, after = (1 - confidence for confidence in c.confidence)
    grown = after > _DOUBT_FACTOR * before and after > before + _DOUBT_GROWTH
    return 1 - before >= _SURE and grown
