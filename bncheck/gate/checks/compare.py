"""Is a file that is shipped the same function?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bncheck.gate.check import Check
from bncheck.gate.subject import Subject, located

if TYPE_CHECKING:
    from bncheck.shipping.report import CompareReport


def _run(subject: Subject) -> CompareReport:
    from bncheck.shipping.compare import CompareRequest, run

    assert subject.model.compare is not None
    return run(
        CompareRequest(
            subject.path,
            located(subject.configuration, subject.model.compare),
            subject.measuring(data=not subject.inputs),
            subject.inputs,
            subject.model.key,
        )
    )


compare = Check("compare", lambda model: model.compare is not None, _run)
