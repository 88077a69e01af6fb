"""`bncheck compare` in every format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bncheck.core.errors import BncheckError
from bncheck.core.findings import Severity
from bncheck.reporting.document import Document
from bncheck.shipping.report import CompareReport

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class CompareView:
    """One comparison."""

    report: CompareReport
    errors: ClassVar[tuple[BncheckError, ...]] = ()

    def show(self, console: Console, *, verbose: bool) -> None:
        """Print the verdict and the figures; there is no more to say with `verbose`."""
        from bncheck.reporting.text.shipping import show_compare

        show_compare(console, self.report)

    def data(self) -> dict[str, object]:
        """Schema bncheck.compare/1."""
        return self.report.to_dict()

    def documents(self) -> list[Document]:
        """One document, about the second file."""
        from bncheck.reporting.text.shipping import compare_lines, levels_table

        report = self.report
        return [
            Document(
                "compare",
                report.second,
                "equal" if report.equal else "differs",
                None if report.equal else Severity.ERROR,
                (f"against {report.first}", *compare_lines(report)),
                report.findings,
                (levels_table(report.proof),),
            )
        ]
