"""Fold a module or an exported program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from bncheck.core.errors import BncheckError
from bncheck.core.findings import Severity
from bncheck.folding import fold as folding
from bncheck.folding.fold import FoldOptions
from bncheck.folding.planner.normalisations import refuse_corrupt
from bncheck.folding.planner.plan import Decision
from bncheck.folding.program.decomposing import decomposed, of_any_layout
from bncheck.folding.program.exporting import (
    as_arguments,
    export_program,
    export_shaped,
    refuse_random,
)
from bncheck.folding.program.fixed import batch_notes
from bncheck.folding.program.in_place import functional
from bncheck.folding.program.parity import Flat, ProgramSides
from bncheck.folding.program.rebuilding import with_own_tensors
from bncheck.folding.program.regions import inlined
from bncheck.folding.program.rewrite import Rewritten, rewrite
from bncheck.folding.result import FoldReport, Parity
from bncheck.folding.weights import Solution
from bncheck.graph.dataflow import Graph
from bncheck.graph.program.read import read_program
from bncheck.rules.folding import not_folded, parity_failure

if TYPE_CHECKING:
    import pandas as pd


class Folding:
    """What a fold gives in memory, whole or by parts."""

    report: FoldReport

    @property
    def batchnorms(self) -> tuple[Decision, ...]:
        """What became of each normalisation."""
        return self.report.batchnorms

    @property
    def parity(self) -> Parity | None:
        """How close the program is to the original."""
        return self.report.parity

    def refuse_unsound(self) -> None:
        """Raise for a result that is another function, or that was asked to fold everything."""
        bad = [f for f in self.report.findings if not_folded.made(f) or parity_failure.made(f)]
        for finding in bad:
            if finding.severity is Severity.ERROR:
                where = finding.layer or "the model"
                raise BncheckError(f"{where}: {finding.message}", finding.fix)

    def to_dict(self) -> dict[str, object]:
        """The report as plain data."""
        return self.report.to_dict()

    def to_pandas(self) -> pd.DataFrame:
        """A normalisation a row. Raises BncheckError where pandas is not installed."""
        return self.report.to_pandas()

    def __repr__(self) -> str:
        return repr(self.report).replace(type(self.report).__name__, type(self).__name__, 1)

    def _repr_html_(self) -> str | None:
        return self.report._repr_html_()


@dataclass(frozen=True, repr=False)
class FoldResult(Folding):
    """A folded program, and the report about it."""

    program: ExportedProgram
    report: FoldReport
    solution: Solution

    def module(self) -> nn.Module:
        """The folded program as something to call."""
        return self.program.module()


def fold(
    model: nn.Module | ExportedProgram,
    example_inputs: object,
    options: FoldOptions | None = None,
    more_inputs: Sequence[Flat] = (),
    say: Callable[[str], None] = lambda _: None,
) -> FoldResult:
    """Fold every normalisation that can exactly be folded; the model is left as it is.

    `more_inputs` are flat inputs on which parity is checked, too. Raises BncheckError.
    """
    arguments, notes = as_arguments(example_inputs), tuple[str, ...]()
    if not isinstance(model, ExportedProgram):
        say("exporting")
        model = exported(model, arguments, options or FoldOptions())
        if not (options and options.static_batch):
            notes = batch_notes(model, options.batch_axes if options else (), given=False)
    program_given = model

    def attempt(options: FoldOptions) -> FoldResult:
        examples = [pytree.tree_leaves(arguments)] if arguments else []
        program = _Program(program_given, examples, options.batch_axes)
        report, (solution,) = folding.fold(program, options, more_inputs, say)
        return FoldResult(program.result, replace(report, notes=notes), solution)

    return folding.proven(attempt, options or FoldOptions())


def exported(model: nn.Module, arguments: tuple[Any, ...], options: FoldOptions) -> ExportedProgram:
    """The program of a module that these options ask for. Raises BncheckError."""
    if options.static_batch:
        return export_shaped(model, arguments, ())
    return export_program(model, arguments, options.batch_axes)


class _Program:
    """A fold.Foldable; `result` is its fold, or what was given where nothing is folded."""

    failures: tuple[type[Exception], ...] = (RuntimeError,)

    def __init__(
        self, given: ExportedProgram, examples: Sequence[Flat], batch_axes: Sequence[int | None]
    ) -> None:
        self._given, self._examples, self._batch_axes = given, examples, batch_axes
        self._folded: Rewritten | None = None
        self._planned = of_any_layout(decomposed(functional(inlined(given))))
        refuse_random(self._planned)

    @property
    def result(self) -> ExportedProgram:
        return with_own_tensors(self._given) if self._folded is None else self._folded.program

    def read(self) -> Sequence[Graph]:
        graph = read_program(self._planned)
        refuse_corrupt(graph)
        return [graph]

    def rewrite(self, solutions: Sequence[Solution]) -> Sequence[Solution]:
        (self._solution,) = solutions
        self._folded = rewrite(self._planned, self._solution)
        return solutions

    def evaluate(self) -> ProgramSides:
        assert self._folded is not None
        return ProgramSides(
            of_any_layout(self._given),
            self._planned,
            self._folded,
            self._solution,
            self._examples,
            self._batch_axes,
        )
