"""Fold a module or an exported program: export, plan, rewrite, verify."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from bncheck.core.errors import BncheckError
from bncheck.core.findings import Severity
from bncheck.folding.planner.normalisations import refuse_corrupt
from bncheck.folding.planner.plan import Decision
from bncheck.folding.program import parity
from bncheck.folding.program.exporting import (
    as_arguments,
    export_program,
    functional,
    refuse_random,
)
from bncheck.folding.program.plain import plain
from bncheck.folding.program.regions import inlined
from bncheck.folding.program.rewrite import rewrite
from bncheck.folding.residual import Residual, rewritten
from bncheck.folding.result import FoldReport, Parity, findings_of
from bncheck.folding.weights import Solution, solve
from bncheck.graph.program.read import read_program
from bncheck.rules.folding import not_folded, parity_failure


@dataclass(frozen=True)
class FoldResult:
    """A folded program, and the report about it."""

    program: ExportedProgram
    report: FoldReport
    solution: Solution

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

    def module(self) -> nn.Module:
        """The folded program as something to call."""
        return self.program.module()

    def to_dict(self) -> dict[str, object]:
        """The report as plain data."""
        return self.report.to_dict()


@dataclass(frozen=True, slots=True)
class FoldOptions:
    """What a user can set about a fold."""

    keep: Sequence[str] = ()
    tolerance: float | None = None
    fail_unfolded: bool = False
    dry_run: bool = False
    residual: Residual = Residual.BN


def fold(
    model: nn.Module | ExportedProgram,
    example_inputs: object,
    options: FoldOptions | None = None,
    more_inputs: Sequence[tuple[Any, ...]] = (),
    say: Callable[[str], None] = lambda _: None,
) -> FoldResult:
    """Fold every normalisation that can exactly be folded; the model is left as it is.

    `more_inputs` are flat inputs on which parity is checked, too. Raises BncheckError.
    """
    options = options or FoldOptions()
    if isinstance(model, ExportedProgram):
        program = model
    else:
        say("exporting")
        program = export_program(model, as_arguments(example_inputs))
    given, program = program, plain(functional(inlined(program)))
    refuse_random(program)
    graph = read_program(program)
    refuse_corrupt(graph)
    solution = solve(graph, options.keep)
    solution = rewritten(solution, options.residual)
    decisions = solution.plan.decisions
    if options.dry_run:
        report = FoldReport(decisions, findings=findings_of(decisions, None, options.fail_unfolded))
        return FoldResult(program, report, solution)
    folded = rewrite(program, solution)
    say("comparing")
    boundary = solution.boundary
    found = parity.check(given, program, folded, boundary, options.tolerance, more_inputs)
    report = FoldReport(
        decisions,
        found,
        flushed=solution.flushed,
        findings=findings_of(decisions, found, options.fail_unfolded),
    )
    return FoldResult(folded.program, report, solution)
