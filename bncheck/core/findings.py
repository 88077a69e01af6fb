"""What a check found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

#: What evidence may hold: it is written as JSON.
Evidence: TypeAlias = "float | int | str | bool | list[Evidence] | None"


class Severity(StrEnum):
    """How bad a finding is; errors and warnings decide the verdict."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for an error, growing as it gets milder."""
        return _RANKS[self]


_RANKS: Final = {severity: rank for rank, severity in enumerate(Severity)}


class FailOn(StrEnum):
    """The mildest severity that makes the exit code 1."""

    ERROR = "error"
    WARNING = "warning"
    NEVER = "never"

    @property
    def limit(self) -> Severity | None:
        """The same as a severity; None where nothing fails."""
        return None if self is FailOn.NEVER else Severity(self.value)


class Verdict(StrEnum):
    """What a report says in one word."""

    HEALTHY = "healthy"
    SUSPECT = "suspect"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact that somebody should know, about one layer or (layer None) the whole model.

    Where `fix` calls for recalibrating, `instead` is what else it says: all that is to be done
    where the statistics are to stay.
    """

    rule: str
    name: str
    severity: Severity
    layer: str | None
    message: str
    fix: str
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    instead: str | None = None

    @property
    def fingerprint(self) -> str:
        """The same finding after retraining or moving the file has the same fingerprint."""
        import hashlib

        return hashlib.sha256(
            f"{self.rule}\n{self.layer or ''}".encode(errors="replace")
        ).hexdigest()

    def to_dict(self) -> dict[str, object]:
        """The finding as plain data."""
        return {
            "rule": self.rule,
            "name": self.name,
            "severity": self.severity.value,
            "layer": self.layer,
            "message": self.message,
            "fix": self.fix,
            "evidence": dict(self.evidence),
            "fingerprint": self.fingerprint,
        }


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """Errors mean broken, warnings suspect."""
    worst = min((finding.severity.rank for finding in findings), default=2)
    return (Verdict.BROKEN, Verdict.SUSPECT, Verdict.HEALTHY)[worst]


def cause_of(findings: Iterable[Finding]) -> str | None:
    """The rule to look at first: that of the first among the worst, infos apart."""
    serious = [f for f in findings if f.severity is not Severity.INFO]
    return min(serious, key=lambda f: f.severity.rank).rule if serious else None


@dataclass(frozen=True, slots=True)
class Silenced:
    """A finding that the project does not count, and where it says so."""

    finding: Finding
    why: str
