"""GitLab's code quality report.

https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format
"""

from __future__ import annotations

import hashlib
from typing import Final

from bncheck.core.findings import Severity
from bncheck.reporting.document import Pages
from bncheck.reporting.places import file_and_line, full_text, repository_path
from bncheck.reporting.visible import visible
from bncheck.writing.json_text import dump

_SEVERITIES: Final = {
    Severity.ERROR: "critical",
    Severity.WARNING: "minor",
    Severity.INFO: "info",
}


def render(pages: Pages) -> str:
    """An issue for each finding, and one for whatever could not be done."""
    issues = [
        _issue("bncheck", "blocker", str(e), e.subject or "bncheck", "error") for e in pages.errors
    ]
    issues += [
        _issue(
            f"{finding.rule} {finding.name}",
            _SEVERITIES[finding.severity],
            full_text(finding, pages.page_of(finding.rule)).replace("\n", "; "),
            document.file,
            finding.fingerprint,
        )
        for document in pages.documents
        for finding in document.findings
    ]
    return dump(_distinct(issues))


def _issue(
    check: str, severity: str, description: str, subject: str, fingerprint: str
) -> dict[str, object]:
    file, line = file_and_line(subject)
    path = repository_path(file)
    return {
        "description": visible(description, None),
        "check_name": check,
        "fingerprint": _hash(path, fingerprint),
        "severity": severity,
        "location": {"path": path, "lines": {"begin": max(line, 1)}},
    }


def _distinct(issues: list[dict[str, object]]) -> list[dict[str, object]]:
    """GitLab shows only the first of equal fingerprints, so the second is another."""
    seen: dict[object, int] = {}
    for issue in issues:
        mark = issue["fingerprint"]
        seen[mark] = seen.get(mark, 0) + 1
        if seen[mark] > 1:
            issue["fingerprint"] = _hash(str(mark), str(seen[mark]))
    return issues


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode(errors="replace")).hexdigest()
