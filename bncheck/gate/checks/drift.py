"""How did the activations move since earlier snapshots?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bncheck.gate.check import Check
from bncheck.gate.declared import Declared

if TYPE_CHECKING:
    from bncheck.drifting.report import DriftReport


def _run(declared: Declared) -> DriftReport:
    from bncheck.drifting.command import DriftOptions, drift

    model, options = declared.model, declared.options
    paths = [*declared.files(model.drift, "drift"), declared.path]
    asked = DriftOptions(
        key=options.key,
        eps=options.eps,
        select=options.select,
        ignore=options.ignore,
        thresholds=options.thresholds,
        last=declared.path,  # it may be of the same epoch as the last snapshot
    )
    with_data = model.model is not None and model.data is not None
    return drift(paths, asked, declared.measuring() if with_data else None)


drift = Check("drift", lambda model: bool(model.drift), _run, lambda report: report.errors)
