"""Is a model worse than it was? `--against` holds a gate's report against an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.core.words import shortened
from bncheck.core.wrappers import LayerNames
from bncheck.reading.text_file import read_json
from bncheck.rules.regression import fewer_folded, grown_w2

#: What is made anew where a change is meant.
_ANEW: Final = "if the change is meant, make it anew with `bncheck gate --report json:FILE`"
#: Things that a line names.
_NAMED: Final = 4


@dataclass(frozen=True)
class Coverage:
    """What of one model could be compared, and what of the earlier report could not."""

    compared: int
    lost: tuple[str, ...]

    @property
    def said(self) -> str:
        """The W2 of bn1, the W2 of bn2 and 3 more."""
        more = len(self.lost) - _NAMED
        return ", ".join(self.lost[:_NAMED]) + (f" and {more} more" if more > 0 else "")


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

    def uncompared(self, model: str, now: Sequence[Mapping[str, Any]]) -> str | None:
        """What is worth knowing of all checks of a model: what was not compared, if anything.

        Raises BncheckError where the earlier report knows something, and nothing could be.
        """
        if model not in self.reports:
            return f"{self.path}: {model} is not in it, so there is nothing to compare it with"
        found = self._coverage(model, now)
        if found.lost and not found.compared:
            raise BncheckError(
                f"nothing that it holds of {model} can be compared: {found.said} is not there now",
                f"check the names; {_ANEW}",
                str(self.path),
            )
        if found.lost:
            return (
                f"{self.path}: of {model} was not compared, for it is not there now: {found.said}"
            )
        if not found.compared:
            return f"{self.path}: neither W2 nor a fold of {model} is in it to compare with"
        return None

    def _coverage(self, model: str, now: Sequence[Mapping[str, Any]]) -> Coverage:
        pairs = [(before, after) for after in now if (before := self._same(model, after))]
        compared, lost = 0, []
        for before, after in pairs:
            old, both = _w2(before), _both_w2(before, after)
            compared += len(both) + (_folded(after) is not None and _folded(before) is not None)
            lost += [f"W2 of {shortened(layer)}" for layer in old if layer not in both.values()]
        held = [id(before) for before, _ in pairs]
        for before in self.reports[model]:
            if id(before) not in held and (_w2(before) or _folded(before) is not None):
                what = str(before["schema"]).removeprefix("bncheck.").partition("/")[0]
                lost.append(f"{what} of {shortened(_path(before) or model)}")
        return Coverage(compared, tuple(lost))

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
        old, new = _w2(before), _w2(now)
        for layer, earlier in _both_w2(before, now).items():
            if new[layer] > old[earlier] + self.growth:
                yield grown_w2.finding(
                    Severity.ERROR,
                    layer,
                    f"W2 was {old[earlier]:.2f} and is {new[layer]:.2f}; it may grow by "
                    f"{self.growth:g}",
                    "recalibrate, or compare with this report from now on",
                    before=old[earlier],
                    w2=new[layer],
                )

    def _unfolded(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Finding]:
        old, new = (_folded(report) for report in (before, now))
        if old is not None and new is not None and new < old:
            yield fewer_folded.finding(
                Severity.ERROR,
                None,
                f"{old} BatchNorms could be folded before, and only {new} now",
                _way_on(now),
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


def _both_w2(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Layers with W2 in both reports: of each its earlier name."""
    old, new = _w2(before), _w2(now)
    if not old or not new:
        return {}
    names = LayerNames.of(layer["name"] for layer in now["layers"])
    earlier = LayerNames.of(layer["name"] for layer in before["layers"])
    return {
        name: was for name, was in names.counterparts(earlier).items() if name in new and was in old
    }


def _way_on(now: Mapping[str, Any]) -> str:
    """What to do about fewer folds: BN402 says it too, but may be ignored or out of sight."""
    kept = [norm for norm in now["batchnorms"] if norm["status"] == "kept"]
    if not kept:
        return "the model has fewer BatchNorms, and all are folded: compare with this report"
    reasons = "; ".join(f"{shortened(n['name'])} is kept: {n['reason']}" for n in kept[:_NAMED])
    more = f"; and {len(kept) - _NAMED} more" if len(kept) > _NAMED else ""
    return f"{reasons}{more}"


def _folded(report: Mapping[str, Any]) -> int | None:
    if report.get("schema") != "bncheck.fold/1":
        return None
    folded = report["summary"]["folded"]
    if not isinstance(folded, int):
        raise TypeError
    return folded
