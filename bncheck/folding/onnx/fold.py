"""Fold an ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx

from bncheck.core.errors import REPORT_IT, BncheckError
from bncheck.folding import fold as folding
from bncheck.folding.fold import FoldOptions
from bncheck.folding.onnx.decomposing import decompose
from bncheck.folding.onnx.file import load_onnx
from bncheck.folding.onnx.parity import ModelSides, Named
from bncheck.folding.onnx.rewrite import rewrite
from bncheck.folding.result import FoldReport
from bncheck.folding.weights import Solution
from bncheck.graph.dataflow import Graph
from bncheck.graph.onnx.read import read_model
from bncheck.reading.onnx_functions import without_functions


def fold_onnx(
    path: Path,
    options: FoldOptions | None = None,
    *,
    freeze_inputs: bool = False,
    samples: Callable[[onnx.ModelProto], Named] | None = None,
) -> tuple[FoldReport, onnx.ModelProto]:
    """The folded model and the report about it; `samples` are compared on, too.

    Raises BncheckError.
    """
    given = load_onnx(path, freeze_inputs=freeze_inputs)
    model = _Model(given)
    extra = [] if samples is None else [samples(model.original)]
    report, _ = folding.fold(model, options or FoldOptions(), extra)
    return report, model.result


class _Model:
    """A fold.Foldable; `result` is its fold, or what was given where nothing is folded."""

    failures: tuple[type[Exception], ...] = (
        RuntimeError, NotImplementedError, ValueError, onnx.shape_inference.InferenceError,
    )  # fmt: skip

    def __init__(self, given: onnx.ModelProto) -> None:
        self.result = given
        self.original = without_functions(given)
        self._planned = onnx.ModelProto()
        self._planned.CopyFrom(self.original)
        decompose(self._planned)
        self._parts = read_model(self._planned)

    def read(self) -> Sequence[Graph]:
        return [part.graph for part in self._parts]

    def rewrite(self, solutions: Sequence[Solution]) -> None:
        self.result = self._planned
        renamed = rewrite(self.result, self._parts, solutions)
        _check_model(self.original, self.result)
        # What lies in the graphs inside nodes, nobody can see.
        self._twins = {name: renamed.get(name, name) for name in solutions[0].boundary}

    def evaluate(self) -> ModelSides:
        outputs = {output.name: output.name for output in self.original.graph.output}
        return ModelSides(self.original, self.result, self._twins | outputs)


def _check_model(original: onnx.ModelProto, folded: onnx.ModelProto) -> None:
    """onnx.checker must accept the result as it accepts the original."""
    complaint = _complaint(folded)
    if complaint and not _complaint(original):
        raise BncheckError(
            f"folds into a model that onnx.checker rejects ({complaint})",
            f"{REPORT_IT}; nothing was written",
        )


def _complaint(model: onnx.ModelProto) -> str:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        return (str(error).splitlines() or [type(error).__name__])[0][:160]
    return ""
