"""Is a model worse than it was? `--against` holds a gate's report against an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.reading.text_file import read_json
from bncheck.rules.regression import fewer_folded, grown_w2


@dataclass(frozen=True)
class Previous:
    """An earlier report, its models' reports by name. W2 may grow by `growth`."""

    path: Path
    reports: Mapping[str, list[Mapping[str, Any]]]
    growth: float

    def regressions(self, model: str, now: Mapping[str, Any]) -> tuple[Finding, ...]:
        """What is worse in this report of one check."""
        before = self._same(model, now)
        if before is None:
            return ()
        return (*self._grown(before, now), *self._unfolded(before, now))

    def _same(self, model: str, now: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The earlier report of the same check: of the same file, or the only one there is.

        A checkpoint's name may count the epochs, so one of another name can be its successor.
        """
        same = [r for r in self.reports.get(model, ()) if r.get("schema") == now.get("schema")]
        if len(same) == 1:
            return same[0]
        path = _path(now)
        return next((r for r in same if path is not None and _path(r) == path), None)

    def _grown(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Finding]:
        old = _w2(before)
        for layer, new in _w2(now).items():
            if layer in old and new > old[layer] + self.growth:
                yield grown_w2.finding(
                    Severity.ERROR,
                    layer,
                    f"W2 was {old[layer]:.2f} and is {new:.2f}; it may grow by {self.growth:g}",
                    "recalibrate, or compare with this report from now on",
                    before=old[layer],
                    w2=new,
                )

    def _unfolded(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Finding]:
        old, new = (_folded(report) for report in (before, now))
        if old is not None and new is not None and new < old:
            yield fewer_folded.finding(
                Severity.ERROR,
                None,
                f"{old} BatchNorms could be folded before, and only {new} now",
                "look at BN402: it says what is in the way",
                before=old,
                folded=new,
            )


def read_previous(path: Path, growth: float) -> Previous:
    """Read the JSON that `bncheck gate` wrote earlier. Raises BncheckError."""
    what, hint = "report of `bncheck gate`", "write one with `bncheck gate --report json:FILE`"
    data = read_json(path, "bncheck.gate/1", what, hint)
    try:
        reports = {entry["name"]: list(entry["reports"]) for entry in data["models"]}
        for report in (report for known in reports.values() for report in known):
            if not str(report["schema"]).startswith("bncheck."):
                raise TypeError
            _w2(report), _folded(report)  # a report that lacks its keys is found now
    except (KeyError, TypeError, AttributeError, OverflowError):
        raise BncheckError(f"is not a {what}", hint, str(path)) from None
    return Previous(path, reports, growth)


def _path(report: Mapping[str, Any]) -> str | None:
    checkpoint = report.get("checkpoint")
    return checkpoint.get("path") if isinstance(checkpoint, Mapping) else None


def _w2(report: Mapping[str, Any]) -> dict[str, float]:
    if report.get("schema") != "bncheck.inspect/1":
        return {}
    found = {layer["name"]: layer["w2"]["eval"] for layer in report["layers"]}
    return {name: float(w2) for name, w2 in found.items() if isinstance(w2, (int, float))}


def _folded(report: Mapping[str, Any]) -> int | None:
    if report.get("schema") != "bncheck.fold/1":
        return None
    folded = report["summary"]["folded"]
    if not isinstance(folded, int):
        raise TypeError
    return folded
