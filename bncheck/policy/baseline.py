"""What is known already: findings that do not fail again.

A finding is known by rule and layer (its fingerprint), so that retraining or renaming the file
changes nothing, nor does what wraps the model. One that has become worse than it was is new.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from bncheck._version import __version__
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.core.wrappers import LayerNames
from bncheck.reading.text_file import read_json

SCHEMA: Final = "bncheck.baseline/1"


@dataclass(frozen=True)
class Known:
    """One finding of a baseline. `model` is its name in [tool.bncheck.models], None outside.

    `bare` is the layer's name without wrappers, None where another layer had the same.
    """

    rule: str
    layer: str | None
    severity: Severity
    fingerprint: str
    model: str | None = None
    bare: str | None = None

    def is_of(self, other: Known) -> bool:
        """Whether both are the same finding, however bad."""
        same_model = None in (self.model, other.model) or self.model == other.model
        return same_model and bool(self.marks & other.marks)

    @property
    def marks(self) -> frozenset[str]:
        """What it is recognised by: the layer's whole name, and that without wrappers."""
        bare = () if self.bare is None else (f"{self.rule} {self.bare}",)
        return frozenset((self.fingerprint, *bare))

    def covers(self, other: Known) -> bool:
        """Whether `other` is this one, and not worse."""
        return self.is_of(other) and other.severity.rank >= self.severity.rank

    @property
    def said(self) -> str:
        """BN102 layer1.bn of net."""
        of = "" if self.model is None else f" of {self.model}"
        return f"{self.rule} {self.layer or 'whole model'}{of}"

    @property
    def sort_key(self) -> tuple[str, str, str]:
        """Model, rule, layer: the order in the file, so that its diffs are readable."""
        return (self.model or "", self.rule, self.layer or "")


@dataclass(frozen=True)
class Baseline:
    """A file of known findings."""

    path: Path
    known: tuple[Known, ...]

    def covers(self, finding: Finding, model: str | None, names: LayerNames) -> bool:
        """Whether a finding is among them, in a network whose layers have these names."""
        met = known_of(finding, model, names)
        return any(known.covers(met) for known in _alike(met, self._marked))

    @cached_property
    def _marked(self) -> Mapping[str, list[Known]]:
        return _by_mark(self.known)

    def gone(self, met: Iterable[Known], asked: Callable[[Known], bool]) -> list[Known]:
        """The known findings that were not found again, of those that were asked for."""
        found = _by_mark(met)
        return [
            known
            for known in self.known
            if asked(known) and not any(known.is_of(other) for other in _alike(known, found))
        ]


def _by_mark(entries: Iterable[Known]) -> Mapping[str, list[Known]]:
    found = defaultdict(list)
    for entry in entries:
        for mark in entry.marks:
            found[mark].append(entry)
    return found


def _alike(entry: Known, marked: Mapping[str, list[Known]]) -> Iterator[Known]:
    return (other for mark in entry.marks for other in marked.get(mark, ()))


def known_of(finding: Finding, model: str | None, names: LayerNames) -> Known:
    """A finding as a baseline remembers it."""
    return Known(
        finding.rule,
        finding.layer,
        finding.severity,
        finding.fingerprint,
        model,
        names.bare.get(finding.layer or ""),
    )


def read_baseline(path: Path) -> Baseline:
    """Read a file that `render_baseline` made. Raises BncheckError."""
    what, hint = "bncheck baseline", "make it with --write-baseline"
    data = read_json(path, SCHEMA, what, hint)
    try:
        return Baseline(path, tuple(_known(entry) for entry in data["findings"]))
    except (KeyError, TypeError, ValueError, AttributeError):
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
                    "bare": entry.bare,
                }
                for entry in entries
            ],
        }
    )


def _known(entry: Any) -> Known:
    bare = entry.get("bare")  # baselines of earlier versions have none
    if not all(isinstance(word, str | None) for word in (entry["layer"], entry["model"], bare)):
        raise TypeError
    return Known(
        str(entry["rule"]),
        entry["layer"],
        Severity(entry["severity"]),
        str(entry["fingerprint"]),
        entry["model"],
        bare,
    )
