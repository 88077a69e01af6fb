"""`bncheck compare`: are two files one function?"""

from __future__ import annotations

from bncheck.core.findings import Severity
from bncheck.reporting.document import Document, Fact
from bncheck.reporting.documents.parity import (
    divergence,
    errors,
    levels_table,
    on_the_way,
    sentence,
    steps_table,
)
from bncheck.shipping.report import CompareReport


def document(report: CompareReport, _path: str = "") -> Document:
    """One comparison; its file is the second one."""
    facts = [sentence(report.proof)]
    if not report.equal and report.proof.measured:
        facts.append(divergence(report.proof))
    return Document(
        "compare",
        f"{report.second} against {report.first}",
        "equal" if report.equal else "differs",
        None if report.equal else Severity.ERROR,
        tuple(map(Fact, facts)),
        report.findings,
        (levels_table(report.proof), *steps_table(report.proof)),
        (*on_the_way(report.proof), *errors(report.proof)),
        path=report.second,
        silenced=report.silenced,
    )
