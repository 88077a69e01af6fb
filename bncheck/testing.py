"""For test suites: `assert_sound(model, loader)`, whose failure message is the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bncheck.core.findings import FailOn

if TYPE_CHECKING:
    from torch import nn

    from bncheck.inspecting.report import InspectReport


def assert_sound(
    model: str | Path | nn.Module,
    data: object = None,
    *,
    fail_on: FailOn | str = FailOn.ERROR,
    **options: Any,
) -> InspectReport:
    """Raise AssertionError, with the report as its message, unless the statistics are sound.

    Takes what `bncheck.inspect` takes: a module or a checkpoint, and data to hold the statistics
    against. `fail_on` is the mildest severity that fails, "error" or "warning". Returns the report;
    raises BncheckError where the model cannot be inspected, or has no normalisation layer.
    """
    __tracebackhide__ = True  # pytest shows the caller's line, not this one
    import bncheck
    from bncheck.reporting.documents.inspect import said
    from bncheck.reporting.formats import Format, render

    choices = [choice.value for choice in FailOn]
    if fail_on not in choices:
        raise bncheck.BncheckError(
            f"fail_on={fail_on!r} is not a severity", f"choose one of: {', '.join(choices)}"
        )
    limit = FailOn(fail_on).limit
    report = bncheck.inspect(model, data, **options)
    if not report.certain_layers:
        raise bncheck.BncheckError(
            f"{report.subject} has no normalisation layer with running statistics",
            "check that this is the model to test",
        )
    if limit and any(finding.severity.rank <= limit.rank for finding in report.findings):
        summary = report.summary
        # The first line is all that pytest's summary shows.
        first = f"BatchNorm statistics are {summary.verdict.value}: {summary.cause}"
        raise AssertionError(f"{first}\n{render(Format.TEXT, said([report]))}")
    return report
