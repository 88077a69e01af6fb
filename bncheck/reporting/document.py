"""One report in the form that every format but text and JSON renders: the same for each command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import count
from bncheck.reporting.figures import Figure


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as people read them. Names from a file are as they are: each format escapes them."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Document:
    """What one command says about one file.

    `verdict` is its word for it (healthy, broken, folded), `standing` how bad that is (None where
    nothing is wrong), `summary` the sentences beneath it. Findings of `limit` and worse make the
    command fail; None where nothing does. `model` is what a gate's configuration calls it, empty
    elsewhere. Nothing in here is escaped.
    """

    command: str
    subject: str
    verdict: str
    standing: Severity | None
    summary: tuple[str, ...]
    findings: tuple[Finding, ...]
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    path: str = ""
    limit: Severity | None = Severity.ERROR
    model: str = ""

    @property
    def file(self) -> str:
        """The file that findings are about: `path`, where the subject is no file itself."""
        return self.path or self.subject

    @property
    def title(self) -> str:
        """The subject, with the model that it belongs to where there may be several."""
        return f"{self.model}: {self.subject}" if self.model else self.subject

    def fails(self, finding: Finding) -> bool:
        """Whether this finding is among those that make the command fail."""
        return self.limit is not None and finding.severity.rank <= self.limit.rank


def severity_counts(findings: Sequence[Finding]) -> str:
    """1 error, 2 warnings."""
    counts = [(sum(f.severity is s for f in findings), s.value) for s in Severity]
    return ", ".join(count(number, word) for number, word in counts if number) or "none"


def standing_of(findings: tuple[Finding, ...]) -> Severity | None:
    """The worst severity that decides a verdict; infos decide nothing."""
    serious = [f.severity for f in findings if f.severity is not Severity.INFO]
    return min(serious, key=lambda severity: severity.rank, default=None)
