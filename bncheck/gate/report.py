"""What a gate found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from bncheck._version import __version__
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity, Verdict, verdict_of
from bncheck.core.report import Report

#: The word for a model one of whose checks could not be made.
UNCHECKED = "unchecked"


class CheckReport(Protocol):
    """The report of any command: a frozen dataclass."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found."""

    def to_dict(self) -> dict[str, object]:
        """The report as plain data, in its command's schema."""


@dataclass(frozen=True)
class CheckResult:
    """One check of one checkpoint: the report of the command that it is named like."""

    check: str
    path: str
    report: CheckReport


@dataclass(frozen=True)
class ModelResult:
    """All checks of one declared model, and what could not be checked."""

    name: str
    results: tuple[CheckResult, ...]
    errors: tuple[BncheckError, ...] = ()

    @property
    def findings(self) -> list[Finding]:
        """What the checks found."""
        return [finding for result in self.results for finding in result.report.findings]

    @property
    def status(self) -> str:
        """healthy, suspect, broken, or unchecked where something could not be done."""
        return UNCHECKED if self.errors else verdict_of(self.findings).value

    def to_dict(self) -> dict[str, object]:
        """The model's part of schema bncheck.gate/1."""
        return {
            "name": self.name,
            "status": self.status,
            "reports": [result.report.to_dict() for result in self.results],
            "errors": [error.to_dict() for error in self.errors],
        }


@dataclass(frozen=True, repr=False)
class GateReport(Report):
    """All declared models, in the order in which they are declared."""

    command: ClassVar = "gate"

    models: tuple[ModelResult, ...]

    @property
    def findings(self) -> list[Finding]:
        """What all checks found."""
        return [finding for model in self.models for finding in model.findings]

    @property
    def errors(self) -> list[BncheckError]:
        """What could not be checked."""
        return [error for model in self.models for error in model.errors]

    def rows(self) -> list[dict[str, Any]]:
        """A finding a row."""
        return [
            {"model": model.name, "status": model.status, **finding.to_dict()}
            for model in self.models
            for finding in model.findings
        ]

    def to_dict(self) -> dict[str, object]:
        """The report as plain data: schema bncheck.gate/1."""
        return {
            "schema": "bncheck.gate/1",
            "bncheck": __version__,
            "models": [model.to_dict() for model in self.models],
            "summary": {
                "models": len(self.models),
                **{f"{s.value}s": _count(self.findings, s) for s in Severity},
                "unchecked": len(self.errors),
                "status": _worst(self.models),
            },
        }


def _count(findings: Sequence[Finding], severity: Severity) -> int:
    return sum(finding.severity is severity for finding in findings)


def _worst(models: Sequence[ModelResult]) -> str:
    order = [*(verdict.value for verdict in Verdict), UNCHECKED]
    return max((model.status for model in models), key=order.index)
