"""Are the statistics sound?"""

from __future__ import annotations

import json

from bncheck.core.errors import BncheckError
from bncheck.core.words import tell_all
from bncheck.gate.check import Check
from bncheck.gate.declared import Declared, refuse_without_layers
from bncheck.inspecting.choices import choice_notes, ignored_notes
from bncheck.inspecting.report import InspectReport
from bncheck.reading.checkpoint import Checkpoint, part_name


def _run(declared: Declared) -> InspectReport:
    from bncheck.inspecting.command import inspect as run

    # Without data the file says all there is: a model would only cost an import of torch.
    measuring = declared.measuring() if declared.model.data is not None else None
    report = run(declared.path, declared.options, measuring)
    if report.checkpoint is not None:
        notes = choice_notes(report.checkpoint, declared.options, report.others)
        tell_all(notes, declared.note)
        _refuse_broken_beside(declared, report, report.checkpoint)
    tell_all(ignored_notes(report, declared.options), declared.note)
    refuse_without_layers(declared, report.certain_layers)
    return report


def _refuse_broken_beside(
    declared: Declared, report: InspectReport, checkpoint: Checkpoint
) -> None:
    """A gate that guesses which of two models is shipped must not pass because of the sound one."""
    for other in report.broken_beside:
        taken = checkpoint.key
        raise BncheckError(
            f"holds {part_name(other.key)}, which is broken, beside {part_name(taken)}, and "
            "nothing says which is used",
            f"set key = {json.dumps(taken)} in [tool.bncheck.models.{declared.name}] if "
            "that is the one, or save the other anew",
            str(declared.path),
        )


inspect = Check("inspect", lambda model: True, _run)
