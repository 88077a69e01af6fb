"""`bncheck export` in every format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bncheck.core.errors import BncheckError
from bncheck.reporting.document import Document, standing_of
from bncheck.shipping.report import ExportReport

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class ExportView:
    """One export."""

    path: str
    report: ExportReport
    errors: ClassVar[tuple[BncheckError, ...]] = ()

    def show(self, console: Console, *, verbose: bool) -> None:
        """Print what was written and how it was proven, or why nothing was."""
        from bncheck.reporting.text.shipping import show_export

        show_export(console, self.path, self.report, verbose=verbose)

    def data(self) -> dict[str, object]:
        """Schema bncheck.export/1."""
        return self.report.to_dict()

    def documents(self) -> list[Document]:
        """One document."""
        from bncheck.reporting.text.shipping import export_lines, export_tables
        from bncheck.reporting.views.fold import batchnorms_table

        report = self.report
        tables = list(export_tables(report))
        if report.fold is not None and report.fold.batchnorms:
            tables.append(batchnorms_table(report.fold))
        return [
            Document(
                "export",
                self.path,
                "stopped" if report.file is None else "exported",
                standing_of(report.findings),
                tuple(export_lines(report)),
                report.findings,
                tuple(tables),
            )
        ]
