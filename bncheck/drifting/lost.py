"""Running statistics that the last snapshot has lost: the findings that `inspect` has on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from bncheck.core.findings import Finding, Severity
from bncheck.inspecting.from_file import InspectOptions, inspect_checkpoint
from bncheck.layers.norm_layer import Assumptions
from bncheck.reading.opening import open_checkpoint
from bncheck.rules.rule import AnyRule
from bncheck.rules.static.bn102_non_finite import non_finite
from bncheck.rules.static.bn103_negative_variance import negative_variance
from bncheck.rules.static.bn104_missing_statistics import missing_statistics
from bncheck.series.series import Series

#: What a layer without usable statistics can have.
_RULES: Final = (non_finite, negative_variance, missing_statistics)


def lost_statistics(
    series: Series, key: str | None, given: Assumptions, rules: Sequence[AnyRule]
) -> Iterator[Finding]:
    """What `rules` say of layers that the last snapshot has no usable statistics of.

    A layer that it does not even name, where one before had its statistics, lacks them too.
    """
    last = series.snapshots[-1]
    held = {n: s.label for s in series.snapshots for n, state in s.states.items() if state.usable}
    lost = [n for n in series.names if n not in last.states or not last.states[n].usable]
    chosen = [rule.code for rule in _RULES if rule in rules]
    if not lost or not chosen:
        return
    options = InspectOptions(key=key, eps=given.eps, select=chosen)
    checkpoint = open_checkpoint(last.path, key)
    found: set[str] = set()
    for finding in inspect_checkpoint(checkpoint, options).findings:
        name = finding.layer or ""
        found.add(name)
        if name in lost:
            yield _since(finding, series, name)
    if missing_statistics in rules:
        for name in lost:
            if name in held and name not in found:
                yield missing_statistics.finding(
                    Severity.ERROR,
                    name,
                    f"is not in {last.label}, and had running statistics in {held[name]}",
                    "save the whole state dict (buffers too, not only parameters), or leave out "
                    "snapshots of another architecture",
                )


def _since(finding: Finding, series: Series, name: str) -> Finding:
    """With the first of the snapshots, to the last, that have lost them."""
    first = series.snapshots[-1]
    for snapshot in reversed(series.snapshots):
        state = snapshot.states.get(name)
        if state is not None and state.usable:
            before = f"since {first.label} (not yet in {snapshot.label})"
            return replace(finding, message=f"{finding.message}, {before}")
        first = snapshot
    return finding
