"""`bncheck compare`: are two files one function?"""

from __future__ import annotations

from bncheck.core.findings import Severity
from bncheck.reporting.document import Document, Fact
from bncheck.reporting.documents.parity import errors, levels_table, sentence
from bncheck.shipping.report import CompareReport


def document(report: CompareReport, _path: str = "") -> Document:
    """One comparison; its file is the second one."""
    facts = [sentence(report.proof)]
    if not report.equal and report.proof.measured:
        place = report.proof.parts_at
        facts.append(
            f"they diverge at {place}" if place else "they share no name at which they diverge"
        )
    return Document(
        "compare",
        f"{report.second} against {report.first}",
        "equal" if report.equal else "differs",
        None if report.equal else Severity.ERROR,
        tuple(map(Fact, facts)),
        report.findings,
        (levels_table(report.proof),),
        tuple(errors(report.proof)),
        path=report.second,
    )
