"""Fold an ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from bncheck.core.errors import REPORT_IT, BncheckError
from bncheck.core.words import shortened
from bncheck.folding import fold as folding
from bncheck.folding.fold import FoldOptions
from bncheck.folding.onnx.altered import Altered
from bncheck.folding.onnx.decomposing import decomposed
from bncheck.folding.onnx.rewrite import rewrite
from bncheck.folding.regions import regions_of
from bncheck.folding.result import FoldReport
from bncheck.folding.weights import Solution
from bncheck.graph.dataflow import Graph
from bncheck.graph.onnx.light import light
from bncheck.graph.onnx.read import read_model
from bncheck.reading.onnx_file import graphs_of
from bncheck.reading.onnx_functions import without_functions
from bncheck.runtime.file import open_onnx
from bncheck.runtime.inputs import Named, asked_sizes, inputs_of
from bncheck.runtime.weights import Weights
from bncheck.subject.inputs import InputShape

if TYPE_CHECKING:
    from bncheck.folding.onnx.parity import ModelSides


def fold_onnx(
    path: Path,
    options: FoldOptions | None = None,
    *,
    freeze_inputs: bool = False,
    samples: Callable[[onnx.ModelProto], Named] | None = None,
    shapes: Sequence[InputShape] = (),
) -> tuple[FoldReport, onnx.ModelProto, Weights]:
    """The report about a fold, the folded model, and the numbers that it refers to.

    `samples` are compared on, too; `shapes` are sizes at which the model can be run. Raises
    BncheckError.
    """
    given, weights = open_onnx(path, freeze_inputs=freeze_inputs)

    def attempt(options: FoldOptions) -> tuple[FoldReport, onnx.ModelProto, Weights]:
        model = _Model(given, weights, shapes)
        extra = [] if samples is None else [samples(model.original)]
        model.sample = extra[0] if extra else None
        report, _ = folding.fold(model, options, extra)
        return report, model.result, weights

    return folding.proven(attempt, options or FoldOptions())


class _Model:
    """A fold.Foldable; `result` is its fold, or what was given where nothing is folded.

    `sample` has the sizes of the user's data, if there are any.
    """

    # As onnxruntime and onnx' evaluator raise them: onnx/parity.py.
    failures: tuple[type[Exception], ...] = (RuntimeError, NotImplementedError, ValueError,
                                             onnx.shape_inference.InferenceError)  # fmt: skip

    def __init__(
        self, given: onnx.ModelProto, weights: Weights, shapes: Sequence[InputShape] = ()
    ) -> None:
        self.result = given
        self._weights = weights
        self.original = without_functions(given)
        self.sample: Named | None = None
        self._planned = decomposed(self.original, weights.numbers)
        asked_sizes(inputs_of(self.original, shapes), shapes)  # raises for what contradicts it
        self._shapes = shapes
        self._new = onnx.ModelProto()
        self._new.CopyFrom(self._planned)
        self._parts = read_model(self._new, weights.numbers)

    def read(self) -> Sequence[Graph]:
        return [part.graph for part in self._parts]

    def rewrite(self, solutions: Sequence[Solution]) -> Sequence[Solution]:
        self.result = self._new
        pairs = zip(self._parts, solutions, strict=True)
        changed = [part.proto for part, solution in pairs if solution.changes]
        regions = [*regions_of(solutions[0]), *_around(self._new, changed)]
        renamed = rewrite(self.result, self._parts, solutions, self._weights)
        self._altered = Altered.by(solutions[0], regions, renamed)
        self._parts = []
        _check_model(self.original, self.result)
        return ()

    def evaluate(self) -> ModelSides:
        from bncheck.folding.onnx.parity import ModelSides

        sides = ModelSides(
            self._planned, self.result, self._weights, self._altered, self._shapes, self.sample
        )
        if self._planned is not self.original:
            sides.judge_by(self.original)
        return sides


def _around(
    model: onnx.ModelProto, changed: Sequence[onnx.GraphProto]
) -> Iterator[tuple[str, ...]]:
    """What those nodes make in whose graphs something changes: each is a region as a whole."""
    for node in model.graph.node:
        own = [a.g for a in node.attribute if a.HasField("g")]
        own += [graph for attribute in node.attribute for graph in attribute.graphs]
        inside = [graph for each in own for graph in graphs_of(each)]
        if any(graph is other for graph in inside for other in changed):
            yield tuple(name for name in node.output if name)


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
        onnx.checker.check_model(light(model), full_check=True)
    except Exception as error:
        return shortened((str(error).splitlines() or [type(error).__name__])[0], 160)
    return ""
