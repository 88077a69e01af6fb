"""What a fold from file to file is asked for, and what it has before it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.folding.fold import FoldOptions
from bncheck.folding.planner.families import Norms
from bncheck.folding.result import FoldReport
from bncheck.inspecting.from_file import InspectOptions, inspect_checkpoint
from bncheck.reading.checkpoint import Checkpoint
from bncheck.rules.static.bn102_non_finite import non_finite
from bncheck.rules.static.bn103_negative_variance import negative_variance

if TYPE_CHECKING:
    from bncheck.subject.setup import Measuring

#: Numbers that cannot be statistics; what a fold makes of them would be nonsense.
CORRUPT = (non_finite.code, negative_variance.code)


@dataclass(frozen=True)
class FoldRequest:
    """What a user asks for on the command line; `given` holds the model and the data."""

    source: Path
    output: Path | None
    given: Measuring
    inputs: Sequence[str] = ()
    key: str | None = None
    keep: Sequence[str] = ()
    tolerance: float | None = None
    dry_run: bool = False
    fail_unfolded: bool = False
    freeze_inputs: bool = False
    norms: Norms = Norms.BATCH
    parts: Sequence[str] = ()
    static_batch: bool = False

    @property
    def options(self) -> FoldOptions:
        """What the fold itself is told."""
        return FoldOptions(
            self.keep, self.tolerance, self.fail_unfolded, self.dry_run, norms=self.norms
        )

    @property
    def has_model(self) -> bool:
        """Whether a module is to be built or unpickled."""
        return self.given.model is not None or self.given.trust


@dataclass(frozen=True)
class Folded:
    """A fold in memory: the report about it, and what writes it to a file.

    `said` is what an inspection says of the source, where there was one.
    """

    report: FoldReport
    write: Callable[[Path], None]
    said: Sequence[Finding] | None = None


def findings_of_file(checkpoint: Checkpoint) -> Sequence[Finding]:
    """What an inspection says of a file with a program.

    Raises BncheckError for statistics with which it computes nothing worth folding.
    """
    findings = inspect_checkpoint(checkpoint, InspectOptions()).findings
    refuse_corrupt(findings)
    return findings


def refuse_corrupt(findings: Sequence[Finding]) -> None:
    """One line for statistics with which the model computes nothing worth folding."""
    bad = [f for f in findings if f.rule in CORRUPT and f.severity is Severity.ERROR]
    if not bad:
        return
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    raise BncheckError(
        f"{bad[0].rule} {bad[0].name}: {bad[0].layer or 'the norm'}: {bad[0].message}{more}",
        "fix it first; `bncheck inspect` says more",
    )
