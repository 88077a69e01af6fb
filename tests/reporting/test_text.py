"""Text shows one fix of findings that are one thing to read, and with --verbose all."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bncheck.core.findings import Finding, Severity
from bncheck.reporting import text
from bncheck.reporting.document import Document, Pages


@pytest.mark.parametrize("verbose", [False, True])
def test_layers_that_are_told_together_have_one_fix_line(verbose: bool) -> None:
    findings = tuple(
        Finding("BN104", "missing-statistics", Severity.ERROR, f"bn{n}", "lacks them", f"add bn{n}")
        for n in range(5)
    )
    page = io.StringIO()
    document = Document("inspect", "a.pt", "broken", Severity.ERROR, findings=findings)
    text.show(Console(file=page, width=100), Pages((document,)), verbose=verbose)
    assert page.getvalue().count("fix: ") == (5 if verbose else 1)
    assert ("and 4 other fixes (--verbose)" in page.getvalue()) == (not verbose)
