"""`bncheck recalibrate`: before and after, by layer and for the whole model."""

from __future__ import annotations

from typing import Final

from bncheck.core.words import count
from bncheck.recalibrating.report import RecalibrationReport
from bncheck.reporting.document import Document, Fact, Table, standing_of
from bncheck.reporting.documents.measured import side_by_side, unmeasured, worst_places
from bncheck.reporting.prose import W2_IS
from bncheck.reporting.visible import visible

#: Layers shown without --verbose: those that were worst.
_ROWS: Final = 20


def document(report: RecalibrationReport, path: str) -> Document:
    """One recalibration."""
    facts = []
    if report.comparison is not None and (
        line := side_by_side(report.comparison, "before", "after")
    ):
        of = "" if report.written else f"on {count(report.comparison.samples, 'sample')}: "
        facts.append(f"{of}{line}")
    if report.reason is not None and not report.findings:
        facts.append(f"nothing written: {report.reason}")
    if report.unreached:
        names = ", ".join(visible(name) for name in report.unreached)
        facts.append(f"unchanged, because no data reached them: {names}")
    facts += [fact.text for fact in unmeasured(report.unmeasured)]
    if report.written is not None:
        facts.append(_outcome(report))
    done = report.reason is None
    return Document(
        "recalibrate", path, "recalibrated" if done else "left alone",
        standing_of(report.findings), tuple(map(Fact, facts)), report.findings,
        (_table(report),),
        silenced=report.silenced,
    )  # fmt: skip


def _table(report: RecalibrationReport) -> Table:
    rows = tuple(
        (name or "(root)", _w2(report.before.get(name)), _w2(report.after.get(name)))
        for name in report.layers
    )
    brief = worst_places([report.before.get(name) or 0.0 for name in report.layers], _ROWS)
    columns = ("layer", "W2 before", "after")
    return Table(
        "W2", columns, rows, columns[1:], W2_IS, brief=brief,
        rest=f"and {len(rows) - _ROWS} with a smaller error (--verbose)",
    )  # fmt: skip


def _outcome(report: RecalibrationReport) -> str:
    """What was written, and from what."""
    how = "by formula, without data"
    if report.samples is not None:
        how = f"from {count(report.samples, 'sample')}"
    return f"written {report.written}: {count(len(report.statistics), 'layer')} recalibrated {how}"


def _w2(value: float | None) -> str:
    """A W2, or a dash where none was measured."""
    return "-" if value is None else f"{value:.3f}"
