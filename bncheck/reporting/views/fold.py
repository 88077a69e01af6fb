"""`bncheck fold` in every format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bncheck.core.errors import BncheckError
from bncheck.folding.result import FoldReport
from bncheck.reporting.document import Document, Table, standing_of

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class FoldView:
    """One fold, or with `dry_run` its plan."""

    path: str
    report: FoldReport
    dry_run: bool = False
    errors: ClassVar[tuple[BncheckError, ...]] = ()

    def show(self, console: Console, *, verbose: bool) -> None:
        """Print the verdict, the proof, and what stays."""
        from bncheck.reporting.text.fold import show

        every = verbose or self.dry_run
        show(console, self.path, self.report, every=every, dry_run=self.dry_run)

    def data(self) -> dict[str, object]:
        """Schema bncheck.fold/1."""
        return self.report.to_dict()

    def documents(self) -> list[Document]:
        """One document."""
        from bncheck.reporting.text.fold import parity_text, summary, verdict

        report = self.report
        lines = [summary(report, self.dry_run)]
        if report.parity is not None:
            lines.append(parity_text(report.parity).plain)
        if report.output is not None:
            lines.append(f"written {report.output}")
        word = verdict(report, self.dry_run)[0].lower()
        standing = standing_of(report.findings)
        tables = (batchnorms_table(report),) if report.batchnorms else ()
        return [Document("fold", self.path, word, standing, tuple(lines), report.findings, tables)]


def batchnorms_table(report: FoldReport) -> Table:
    """A row for each normalisation: what became of it."""
    rows = [
        (
            decision.name or "(root)",
            decision.status.value,
            ", ".join(decision.into) or "-",
            ", ".join(decision.through) or "-",
            decision.reason,
        )
        for decision in report.batchnorms
    ]
    return Table("BatchNorms", ("BatchNorm", "status", "into", "through", "reason"), tuple(rows))
