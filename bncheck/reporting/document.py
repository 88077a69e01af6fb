"""One report in the form that every format but text and JSON renders: the same for each command."""

from __future__ import annotations

from dataclasses import dataclass

from bncheck.findings import Finding, Severity


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
    command fail; None where nothing does. Nothing in here is escaped.
    """

    command: str
    subject: str
    verdict: str
    standing: Severity | None
    summary: tuple[str, ...]
    findings: tuple[Finding, ...]
    tables: tuple[Table, ...] = ()
    limit: Severity | None = Severity.ERROR

    def fails(self, finding: Finding) -> bool:
        """Whether this finding is among those that make the command fail."""
        return self.limit is not None and finding.severity.rank <= self.limit.rank


def standing_of(findings: tuple[Finding, ...]) -> Severity | None:
    """The worst severity that decides a verdict; infos decide nothing."""
    serious = [f.severity for f in findings if f.severity is not Severity.INFO]
    return min(serious, key=lambda severity: severity.rank, default=None)
