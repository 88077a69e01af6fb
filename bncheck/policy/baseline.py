"""What is known already: findings that do not fail again.

A finding is known by rule and layer (its fingerprint), so that retraining or renaming the file
changes nothing. One that has become worse than it was is new.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bncheck._version import __version__
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.reading.text_file import read_json

SCHEMA: Final = "bncheck.baseline/1"


@dataclass(frozen=True)
class Known:
    """One finding of a baseline. `model` is its name in [tool.bncheck.models], None outside."""

    rule: str
    layer: str | None
    severity: Severity
    fingerprint: str
    model: str | None = None

    def covers(self, finding: Finding, model: str | None) -> bool:
        """Whether `finding` is this one, and not worse."""
        same_model = None in (self.model, model) or self.model == model
        same = same_model and self.fingerprint == finding.fingerprint
        return same and finding.severity.rank >= self.severity.rank

    @property
    def sort_key(self) -> tuple[str, str, str]:
        """Model, rule, layer: the order in the file, so that its diffs are readable."""
        return (self.model or "", self.rule, self.layer or "")


@dataclass(frozen=True)
class Baseline:
    """A file of known findings."""

    path: Path
    known: tuple[Known, ...]

    def __contains__(self, scoped: tuple[Finding, str | None]) -> bool:
        finding, model = scoped
        return any(known.covers(finding, model) for known in self.known)

    def gone(
        self, met: Iterable[tuple[Finding, str | None]], models: set[str | None]
    ) -> list[Known]:
        """The known findings of these models that were not found again."""
        found = {(finding.fingerprint, model) for finding, model in met}
        prints = {mark for mark, _ in found}
        return [
            known
            for known in self.known
            if (known.model is None or known.model in models)
            and (
                known.fingerprint not in prints
                if known.model is None
                else (known.fingerprint, known.model) not in found
            )
        ]


def known_of(finding: Finding, model: str | None) -> Known:
    """A finding as a baseline remembers it."""
    return Known(finding.rule, finding.layer, finding.severity, finding.fingerprint, model)


def read_baseline(path: Path) -> Baseline:
    """Read a file that `render_baseline` made. Raises BncheckError."""
    what, hint = "bncheck baseline", "make it with --write-baseline"
    data = read_json(path, SCHEMA, what, hint)
    try:
        return Baseline(path, tuple(_known(entry) for entry in data["findings"]))
    except (KeyError, TypeError, ValueError):
        raise BncheckError(f"is not a {what}", hint, str(path)) from None


def render_baseline(known: Iterable[Known]) -> str:
    """The text of a baseline file: errors and warnings, sorted."""
    from bncheck.writing.json_text import dump

    entries = sorted(set(known), key=lambda entry: entry.sort_key)
    return dump(
        {
            "schema": SCHEMA,
            "bncheck": __version__,
            "findings": [
                {
                    "model": entry.model,
                    "rule": entry.rule,
                    "layer": entry.layer,
                    "severity": entry.severity.value,
                    "fingerprint": entry.fingerprint,
                }
                for entry in entries
            ],
        }
    )


def _known(entry: Any) -> Known:
    if not all(isinstance(entry[key], str | None) for key in ("layer", "model")):
        raise TypeError
    return Known(
        str(entry["rule"]),
        entry["layer"],
        Severity(entry["severity"]),
        str(entry["fingerprint"]),
        entry["model"],
    )
