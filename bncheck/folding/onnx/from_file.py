"""`bncheck fold` of an ONNX file."""

from __future__ import annotations

from functools import partial

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.folding.onnx.fold import fold_onnx
from bncheck.folding.request import Folded, FoldRequest, findings_of_file
from bncheck.reading.checkpoint import Checkpoint
from bncheck.runtime.file import save_onnx
from bncheck.runtime.samples import samples_for
from bncheck.subject.inputs import parse_input


def fold_file(request: FoldRequest, checkpoint: Checkpoint) -> Folded:
    """Fold the file of a request, which is open. Raises BncheckError."""
    given = request.given
    if request.output is not None and request.output.suffix != ".onnx":
        raise BncheckError("an ONNX model is folded into an ONNX model", "give -o a .onnx file")
    for option, value in (
        ("--model", given.model),
        ("--trust", given.trust),
        ("--device", given.device != "cpu"),
    ):
        if value:
            raise BncheckError(f"{option} has no effect on an ONNX model", "leave it out")
    said = findings_of_file(checkpoint)
    samples = None if given.data is None else partial(samples_for, given.batches())
    with np.errstate(all="ignore"):  # a sigmoid may overflow on its way to 0
        report, model, weights = fold_onnx(
            request.source,
            request.options,
            freeze_inputs=request.freeze_inputs,
            samples=samples,
            shapes=[parse_input(word) for word in request.inputs],
        )
    return Folded(report, lambda path: save_onnx(model, weights, path, request.source), said)
