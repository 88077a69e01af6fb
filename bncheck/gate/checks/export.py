"""Can it be shipped as ONNX?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bncheck.gate.check import Check
from bncheck.gate.declared import Declared, located

if TYPE_CHECKING:
    from bncheck.shipping.report import ExportReport


def _run(declared: Declared) -> ExportReport:
    from bncheck.reading.downloading import downloaded
    from bncheck.shipping.command import ExportRequest, run
    from bncheck.shipping.export import ExportOptions

    assert declared.model.export is not None
    with downloaded(declared.path) as source:
        return run(
            ExportRequest(
                source,
                located(declared.configuration, declared.model.export),
                declared.measuring(data=not declared.inputs),
                declared.inputs,
                declared.model.key,
                # Milliseconds of a CI machine say nothing, and are others each time.
                options=ExportOptions(timing=False),
                counted=lambda found: declared.policy.sort(found, declared.name).findings,
            )
        )


export = Check("export", lambda model: model.export is not None, _run)
