"""Can it be shipped as ONNX?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bncheck.gate.check import Check
from bncheck.gate.subject import Subject, located

if TYPE_CHECKING:
    from bncheck.shipping.report import ExportReport


def _run(subject: Subject) -> ExportReport:
    from bncheck.shipping.command import ExportRequest, run
    from bncheck.shipping.export import ExportOptions

    assert subject.model.export is not None
    return run(
        ExportRequest(
            subject.path,
            located(subject.configuration, subject.model.export),
            subject.measuring(data=not subject.inputs),
            subject.inputs,
            subject.model.key,
            # Milliseconds of a CI machine say nothing, and are others each time.
            options=ExportOptions(timing=False),
            judged=lambda found: subject.policy.judge(found, subject.name).findings,
        )
    )


export = Check("export", lambda model: model.export is not None, _run)
