"""`bncheck recalibrate` in every format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bncheck.core.errors import BncheckError
from bncheck.recalibrating.command import RecalibrationReport
from bncheck.reporting.document import Document, Table, standing_of

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class RecalibrateView:
    """One recalibration."""

    path: str
    report: RecalibrationReport
    errors: ClassVar[tuple[BncheckError, ...]] = ()

    def show(self, console: Console, *, verbose: bool) -> None:
        """Print before and after, and what was written."""
        from bncheck.reporting.text.recalibrate import show

        show(console, self.report, verbose)

    def data(self) -> dict[str, object]:
        """Schema bncheck.recalibrate/1."""
        return self.report.to_dict()

    def documents(self) -> list[Document]:
        """One document."""
        from bncheck.reporting.text.recalibrate import outcome, side_by_side, w2

        report = self.report
        lines = [side_by_side(report.comparison, "before", "after")] if report.comparison else []
        lines += [outcome(report)] if report.written is not None else []
        rows = tuple(
            (name or "(root)", w2(report.before.get(name)), w2(report.after.get(name)))
            for name in report.layers
        )
        return [
            Document(
                "recalibrate",
                self.path,
                "recalibrated" if report.reason is None else "left alone",
                standing_of(report.findings),
                tuple(lines),
                report.findings,
                (Table("W2", ("layer", "W2 before", "after"), rows),),
            )
        ]
