"""One fold: read, plan, rewrite, prove; the same for every format that has these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bncheck.core.errors import BncheckError
from bncheck.folding.planner.families import Norms
from bncheck.folding.proof import Inputs, SideBySide, prove
from bncheck.folding.residual import Residual, rewritten
from bncheck.folding.result import FoldReport, Parity, findings_of
from bncheck.folding.weights import Solution, solve
from bncheck.graph.dataflow import Graph


@dataclass(frozen=True, slots=True)
class FoldOptions:
    """What a user can set about a fold.

    Without `whole_too` it is compared where something is altered, and not as a whole: proof.py.
    `not_held` says of norms, by name, why the form of the output cannot hold their fold.
    """

    keep: Sequence[str] = ()
    tolerance: float | None = None
    fail_unfolded: bool = False
    dry_run: bool = False
    residual: Residual = Residual.BN
    norms: Norms = Norms.BATCH
    whole_too: bool = True
    not_held: Mapping[str, str] = field(default_factory=dict)


class Foldable(Protocol[Inputs]):
    """A program of some format; `failures` are what its runtimes raise if they cannot run it."""

    failures: tuple[type[Exception], ...]

    def read(self) -> Sequence[Graph]:
        """Its graph, and those inside it that can be changed."""

    def rewrite(self, solutions: Sequence[Solution]) -> Sequence[Solution]:
        """Carry out the plans of its graphs on a copy. Gives what is needed of them afterwards."""

    def evaluate(self) -> SideBySide[Inputs]:
        """The program and that copy, ready to be run."""


def fold(
    program: Foldable[Inputs],
    options: FoldOptions,
    extra: Sequence[Inputs] = (),
    say: Callable[[str], None] = lambda _: None,
) -> tuple[FoldReport, Sequence[Solution]]:
    """Fold every normalisation that can exactly be folded; `extra` inputs are compared on, too.

    Raises BncheckError.
    """
    solutions: Sequence[Solution] = [
        rewritten(solve(g, options.keep, options.norms, options.not_held), options.residual)
        for g in program.read()
    ]
    decisions = tuple(d for solution in solutions for d in solution.plan.decisions)
    parity, flushed = None, 0
    # Where nothing is altered, there is nothing to compare: the program is not run at all.
    if not options.dry_run and any(solution.changes for solution in solutions):
        flushed = sum(solution.flushed for solution in solutions)
        solutions = program.rewrite(solutions)  # their numbers take as much room as the weights
        say("comparing")
        parity = _proved(program, options, extra)
    findings = findings_of(decisions, parity, options.fail_unfolded)
    return FoldReport(decisions, parity, flushed=flushed, findings=findings), solutions


def _proved(program: Foldable[Inputs], options: FoldOptions, extra: Sequence[Inputs]) -> Parity:
    try:
        return prove(program.evaluate(), options.tolerance, extra, whole_too=options.whole_too)
    except program.failures as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BncheckError(
            f"cannot be run for the comparison ({first[:320]})",
            getattr(error, "hint", "")
            or "--dry-run prints the plan; nothing is written without a comparison",
        ) from None
