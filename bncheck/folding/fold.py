"""One fold: read, plan, rewrite, prove; the same for every format that has these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from bncheck.core.errors import BncheckError
from bncheck.core.words import shortened
from bncheck.folding.planner.families import Norms
from bncheck.folding.planner.maps import Stuck
from bncheck.folding.proof import Inputs, SideBySide, UnevaluatedError, first_line, prove
from bncheck.folding.regions import norms_by_exit
from bncheck.folding.residual import Residual, rewritten
from bncheck.folding.result import FoldReport, Parity, findings_of
from bncheck.folding.weights import Solution, solve
from bncheck.graph.dataflow import Graph
from bncheck.runtime.refused import RefusedError

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class FoldOptions:
    """What a user can set about a fold.

    Without `whole_too` it is compared where something is altered, and not as a whole: proof.py.
    `not_held` says of norms, by name, why the form of the output cannot hold their fold, and
    `unproven` why their fold cannot be compared. `batch_axes` are the axes of the batch, one for
    each input (None where it has no batch), where it is not the first of all. With `static_batch` a
    module is exported at the sizes of the example inputs.
    """

    keep: Sequence[str] = ()
    tolerance: float | None = None
    fail_unfolded: bool = False
    dry_run: bool = False
    residual: Residual = Residual.BN
    norms: Norms = Norms.BATCH
    whole_too: bool = True
    not_held: Mapping[str, str] = field(default_factory=dict)
    unproven: Mapping[str, str] = field(default_factory=dict)
    batch_axes: Sequence[int | None] = ()
    static_batch: bool = False

    def stay(self) -> dict[str, Stuck]:
        """Why norms cannot be written, by name."""
        other_form = "write a .pt2, which can hold it"
        return {
            **{n: Stuck(said, "leave it") for n, said in self.unproven.items()},
            **{
                n: Stuck(f"a state dict cannot hold it: {why}", other_form)
                for n, why in self.not_held.items()
            },
        }


class UnprovenError(BncheckError):
    """The fold of these norms cannot be compared, although the original runs."""

    def __init__(self, norms: Iterable[str], how: str, error: Exception) -> None:
        said = (
            f"its fold cannot be {how} ({shortened(first_line(error), 160)}), so it is not proven"
        )
        self.norms = dict.fromkeys(sorted(norms), said)
        name = next(iter(self.norms))
        super().__init__(f"{name}: {said}", f"--keep {name}")


def proven(attempt: Callable[[FoldOptions], Result], options: FoldOptions) -> Result:
    """What the attempt gives, without what it cannot prove: that is planned again, and stays."""
    while True:
        try:
            return attempt(options)
        except UnprovenError as error:
            if set(error.norms) <= set(options.unproven):
                raise
            options = replace(options, unproven={**options.unproven, **error.norms})


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
        rewritten(solve(g, options.keep, options.norms, options.stay()), options.residual)
        for g in program.read()
    ]
    decisions = tuple(d for solution in solutions for d in solution.plan.decisions)
    parity, flushed = None, 0
    # Where nothing is altered, there is nothing to compare: the program is not run at all.
    if not options.dry_run and any(solution.changes for solution in solutions):
        flushed = sum(solution.flushed for solution in solutions)
        norms = norms_by_exit(solutions[0])
        solutions = program.rewrite(solutions)  # their numbers take as much room as the weights
        say("comparing")
        parity = _proved(program, options, extra, norms)
    findings = findings_of(decisions, parity, options.fail_unfolded, options.tolerance)
    return FoldReport(decisions, parity, flushed=flushed, findings=findings), solutions


def _proved(
    program: Foldable[Inputs],
    options: FoldOptions,
    extra: Sequence[Inputs],
    norms: Mapping[str, Sequence[str]],
) -> Parity:
    try:
        return prove(program.evaluate(), options.tolerance, extra, whole_too=options.whole_too)
    except UnevaluatedError as error:
        names = {name for value in error.exits for name in norms.get(value, ())}
        if not names:
            raise _cannot_run(error) from None
        raise UnprovenError(names, "computed in float64", error) from None
    except (RefusedError, NotImplementedError) as error:
        raise _cannot_run(error) from None
    except program.failures as error:
        every = {name for names in norms.values() for name in names}
        if not every:
            raise _cannot_run(error) from None
        raise UnprovenError(every, "run for the comparison", error) from None


def _cannot_run(error: Exception) -> BncheckError:
    return BncheckError(
        f"cannot be run for the comparison ({shortened(first_line(error), 320)})",
        getattr(error, "hint", "")
        or "--dry-run prints the plan; nothing is written without a comparison",
    )
