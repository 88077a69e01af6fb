"""What a fold reports: a decision for each normalisation, and how close the result is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final

from bncheck._version import __version__
from bncheck.core.errors import REPORT_IT
from bncheck.core.findings import Finding, Severity
from bncheck.core.report import Report
from bncheck.folding.planner.families import Family
from bncheck.folding.planner.plan import Decision, Status
from bncheck.rules.folding import fold_overflow, not_folded, parity_failure

#: Relative error per output channel that a fold may have, by the dtype of its parameters.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}


def tolerance_for(dtypes: Iterable[str]) -> float:
    """The relative error that a program of these floating dtypes may have: the narrowest's."""
    return max((TOLERANCES[name] for name in dtypes if name in TOLERANCES), default=1e-5)


#: One unit in the last place, relative to the number: of the narrowest of these dtypes.
EPSILONS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def epsilon_for(dtypes: Iterable[str]) -> float:
    """One unit in the last place of the narrowest."""
    return max((EPSILONS[name] for name in dtypes if name in EPSILONS), default=2.0**-23)


#: The original in its own dtype is off by so much; the fold, which rounds otherwise, may be off by
#: a multiple of that. Of a thousand channels of right folds, the largest such multiple is 3 to 6
#: (networks of torchvision with random weights). That the new numbers are right is seen in float64
#: beside this.
EXCUSE = 10.0


@dataclass(frozen=True, slots=True)
class RegionsParity:
    """The places where something was folded: how many, and the largest error there, in float64."""

    count: int
    max_relative_error: float

    def to_dict(self) -> dict[str, object]:
        """The figures as plain data."""
        return {"count": self.count, "max_relative_error": self.max_relative_error}


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the outputs of the folded program are from those of the original.

    `original_error` is how far rounding moves the original: where that is more than the tolerance,
    no fold can be asked to be closer, within reason. `excess` is the largest error of any channel
    in parts of what that channel is allowed. `regions` is what was compared in float64 where the
    fold happens, and `parts_at` the first value there that is another one.
    """

    max_relative_error: float
    original_error: float
    tolerance: float
    batches: tuple[int, ...]
    argmax_agreement: float | None = None
    parts_at: str | None = None
    excess: float = 0.0
    regions: RegionsParity | None = None

    @property
    def holds(self) -> bool:
        """Whether the result is the same function, up to the rounding of its dtype."""
        return self.excess <= 1

    def to_dict(self) -> dict[str, object]:
        """The figures as plain data."""
        return {
            "max_relative_error": self.max_relative_error,
            "original_error": self.original_error,
            "tolerance": self.tolerance,
            "reference": "float64",
            "batches": list(self.batches),
            "argmax_agreement": self.argmax_agreement,
            "regions": self.regions.to_dict() if self.regions else None,
        }


@dataclass(frozen=True, slots=True)
class Totals:
    """How many norms, or calls of them, there are, and what became of them."""

    total: int
    folded: int
    kept: int


@dataclass(frozen=True, slots=True)
class PartReport:
    """A submodule: whether it is one graph, how often it is called, its norms, or why not."""

    name: str
    folded: bool
    calls: int
    batchnorms: int
    reason: str


@dataclass(frozen=True, repr=False)
class FoldReport(Report):
    """One fold: what became of each normalisation, and the proof that the function is the same.

    `parity` is None where nothing was run: a plan alone, or nothing to fold. `parts` are the
    submodules that were folded each for itself, or tried, and `whole` why the whole was not.
    `notes` are what is worth knowing of the program beside the fold.
    """

    command: ClassVar = "fold"
    asks: ClassVar = ("BN402", "BN403", "BN404")

    batchnorms: tuple[Decision, ...]
    parity: Parity | None = None
    output: str | None = None
    flushed: int = 0
    findings: tuple[Finding, ...] = field(default=())
    parts: tuple[PartReport, ...] = ()
    whole: str = ""
    notes: tuple[str, ...] = ()

    @property
    def asked(self) -> tuple[str, ...]:
        """Of a plan alone what it keeps: nothing was run."""
        return self.asks if self.parity is not None else self.asks[:1]

    @property
    def layer_names(self) -> list[str]:
        """The names of the normalisations."""
        return [decision.name for decision in self.batchnorms]

    @property
    def folded(self) -> int:
        """How many normalisations went into other calls."""
        return sum(d.status in (Status.FOLDED, Status.MERGED) for d in self.batchnorms)

    @property
    def rewritten(self) -> int:
        """How many became calls of their own instead of a normalisation."""
        return sum(d.status is Status.REWRITTEN for d in self.batchnorms)

    @property
    def kept(self) -> list[Decision]:
        """Those that stay."""
        return [d for d in self.batchnorms if d.status is Status.KEPT]

    def by_kind(self) -> dict[str, Totals]:
        """How many calls of norms of each kind there are, and how many went into other calls."""
        found: dict[str, Totals] = {}
        for decision in self.batchnorms:
            old = found.get(decision.kind.value, Totals(0, 0, 0))
            went = decision.status in (Status.FOLDED, Status.MERGED)
            kept = decision.status is Status.KEPT
            found[decision.kind.value] = Totals(old.total + 1, old.folded + went, old.kept + kept)
        return found

    def modules_by_kind(self) -> dict[str, Totals]:
        """The same of modules, each of which counts once; it went where all of its calls did."""
        found: dict[tuple[str, str], list[Status]] = {}
        for decision in self.batchnorms:
            found.setdefault((decision.kind.value, decision.layer), []).append(decision.status)
        totals: dict[str, Totals] = {}
        for (kind, _), calls in found.items():
            old, kept = totals.get(kind, Totals(0, 0, 0)), Status.KEPT in calls
            went = not kept and Status.REWRITTEN not in calls
            totals[kind] = Totals(old.total + 1, old.folded + went, old.kept + kept)
        return totals

    def rows(self) -> list[dict[str, Any]]:
        """A normalisation a row."""
        return [decision.to_dict() for decision in self.batchnorms]

    def to_dict(self) -> dict[str, object]:
        """The report as plain data: schema bncheck.fold/1 of its JSON."""
        return {
            "schema": "bncheck.fold/1",
            "bncheck": __version__,
            "batchnorms": [decision.to_dict() for decision in self.batchnorms],
            "parity": self.parity.to_dict() if self.parity else None,
            "flushed_subnormals": self.flushed,
            "output": self.output,
            "findings": [finding.to_dict() for finding in self.findings],
            "summary": {
                "total": len(self.batchnorms),
                "folded": self.folded,
                "kept": len(self.kept),
            },
            "parts": [asdict(part) for part in self.parts] or None,
            "kinds": {kind: asdict(totals) for kind, totals in self.by_kind().items()},
            "modules": {kind: asdict(totals) for kind, totals in self.modules_by_kind().items()},
            "notes": list(self.notes),
        }


def findings_of(
    decisions: Sequence[Decision],
    parity: Parity | None,
    fail_unfolded: bool,
    tolerance: float | None = None,
) -> tuple[Finding, ...]:
    """BN402 and BN403 for what stays, BN404 for a result that is another function.

    `tolerance` is what the user asked for.
    """
    staying = [d for d in decisions if d.status is Status.KEPT and d.kind is not Family.PLAIN]
    kept = [_kept(decision, fail_unfolded) for decision in staying]
    return tuple(kept if parity is None or parity.holds else [*kept, _differs(parity, tolerance)])


def _kept(decision: Decision, fail_unfolded: bool) -> Finding:
    rule = fold_overflow if decision.overflow else not_folded
    return rule.finding(
        Severity.ERROR if decision.overflow or fail_unfolded else Severity.INFO,
        decision.name,
        f"kept: {decision.reason}",
        decision.hint,
        op=decision.op,
    )


def _differs(parity: Parity, asked: float | None) -> Finding:
    error, where = parity.max_relative_error, ""
    if parity.regions is not None and parity.regions.max_relative_error > error:
        error, where = parity.regions.max_relative_error, "beside a fold "
    return parity_failure.finding(
        Severity.ERROR,
        parity.parts_at,
        f"the folded program differs from the original {where}by {error:.2g} "
        f"(tolerance {parity.tolerance:.2g})",
        _parity_advice(parity) if asked is None else _OWN_TOLERANCE,
        max_relative_error=parity.max_relative_error,
        tolerance=parity.tolerance,
    )


#: What to do where the user's tolerance may be at fault, rather than the fold.
_OWN_TOLERANCE: Final = (
    "leave --tolerance out: the default is what the dtypes need; if it fails then, too, "
    f"{REPORT_IT}; nothing was written"
)


def _parity_advice(parity: Parity) -> str:
    if parity.parts_at is not None or parity.regions is None:
        return f"{REPORT_IT}; nothing was written"
    if not math.isfinite(parity.max_relative_error):
        return (
            "every place where something was folded agrees, but outputs of the one are NaN or "
            "infinite, or of another shape, where those of the other are not: nothing was written; "
            "--keep the layers whose numbers are large"
        )
    enough = 10.0 ** math.ceil(math.log10(parity.max_relative_error))
    return (
        f"every place where something was folded agrees, and rounding moves the original by "
        f"{parity.original_error:.2g}: nothing was written; fold it with --tolerance {enough:g} if "
        "that much does not matter"
    )
