"""Are the statistics sound?"""

from __future__ import annotations

from bncheck.core.words import tell_all
from bncheck.gate.check import Check
from bncheck.gate.declared import Declared, refuse_without_layers
from bncheck.inspecting.choices import choice_notes, ignored_notes
from bncheck.inspecting.report import InspectReport


def _run(declared: Declared) -> InspectReport:
    from bncheck.inspecting.command import inspect as run

    # Without data the file says all there is: a model would only cost an import of torch.
    measuring = declared.measuring() if declared.model.data is not None else None
    report = run(declared.path, declared.options, measuring)
    if report.checkpoint is not None:
        tell_all(choice_notes(report.checkpoint, declared.options), declared.note)
    tell_all(ignored_notes(report, declared.options), declared.note)
    refuse_without_layers(declared, report.certain_layers)
    return report


inspect = Check("inspect", lambda model: True, _run)
