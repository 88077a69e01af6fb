"""Can BatchNorm disappear for inference, and is the result the same function?"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bncheck.gate.check import Check
from bncheck.gate.declared import Declared, refuse_without_layers

if TYPE_CHECKING:
    from bncheck.folding.result import FoldReport


def _run(declared: Declared) -> FoldReport:
    """Fold for real, into a folder that is thrown away: a plan alone proves nothing."""
    from bncheck.folding.command import run
    from bncheck.folding.request import FoldRequest
    from bncheck.reading.downloading import downloaded

    settings = declared.model.fold
    assert settings is not None
    with tempfile.TemporaryDirectory() as folder, downloaded(declared.path) as source:
        ending = ".onnx" if declared.path.suffix == ".onnx" else ".pt2"
        request = FoldRequest(
            source,
            Path(folder) / f"folded{ending}",
            declared.measuring(data=not declared.inputs),
            inputs=declared.inputs,
            key=declared.model.key,
            keep=settings.keep,
            tolerance=settings.tolerance,
            fail_unfolded=settings.fail_unfolded,
        )
        report = run(request)
    refuse_without_layers(declared, len(report.batchnorms))
    return replace(report, output=None)


fold = Check("fold", lambda model: model.fold is not None, _run)
