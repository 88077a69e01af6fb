"""Findings while the training runs: the rules of `drift` on the last snapshots, as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from bncheck.core.findings import Finding
from bncheck.layers.norm_layer import NormLayer
from bncheck.rules.registry import SERIES_RULES
from bncheck.rules.rule import Network
from bncheck.rules.static.bn102_non_finite import non_finite
from bncheck.rules.static.bn103_negative_variance import negative_variance
from bncheck.series.distance import stacked
from bncheck.series.movement import Basis, Movement, Reference, statistics_in
from bncheck.series.series import Series
from bncheck.series.snapshot import Snapshot

#: Snapshots that are looked back on, and how many updates they are apart at least: a running
#: average takes 20 to move, so that from one update to the next nothing jumps.
_WINDOW: Final = 6
_UPDATES: Final = 20
#: Updates between two judgements at least: one moves a running average by a tenth.
_SELDOM: Final = 5
#: A layer may be found by the same rule again after so many updates, and jump by jump.
_AGAIN: Final = 400


@dataclass
class Live:
    """What was found in one model so far, and the snapshots that the next is held against."""

    anchors: list[Snapshot] = field(default_factory=list)
    last: Snapshot | None = None
    said: dict[tuple[str, str | None], int] = field(default_factory=dict)
    judged: int = -1

    def add(self, snapshot: Snapshot, layers: list[NormLayer]) -> Iterator[Finding]:
        """One more snapshot; what is found for the first time."""
        step = snapshot.step or 0
        with np.errstate(all="ignore"):
            for rule in (non_finite, negative_variance):
                yield from self._new(rule.check(Network(tuple(layers))), step)
            if self.anchors and step - self.judged >= _SELDOM:
                self.judged = step
                movement = _between([*self.anchors, snapshot])
                for series_rule in SERIES_RULES:
                    yield from self._new(series_rule.check(movement), step)
        self._move_on(snapshot)

    def moved(self, snapshot: Snapshot) -> dict[str, float]:
        """W2 of every layer from the last snapshot; to be asked before that one is added."""
        if self.last is None:
            return {}
        movement = _between([self.last, snapshot])
        return dict(zip(movement.layers, movement.to_previous[:, -1].tolist(), strict=True))

    def resume(self, snapshot: Snapshot) -> None:
        """The snapshot that the training goes on from."""
        snapshot = replace(snapshot, label=f"step {snapshot.step:,}")
        self.anchors, self.last = [snapshot], snapshot

    def say(self, finding: Finding, step: int) -> Iterator[Finding]:
        """A finding that something else made, unless it was said."""
        yield from self._new([finding], step)

    def unsaid(self, code: str, layers: Iterable[str]) -> list[str]:
        """The layers of which a rule has said nothing yet."""
        return [layer for layer in layers if (code, layer) not in self.said]

    def take_as_said(self, code: str, layers: Iterable[str], step: int) -> None:
        """What one finding says of several layers."""
        self.said |= {(code, layer): step for layer in layers}

    def _new(self, findings: Iterable[Finding], step: int) -> Iterator[Finding]:
        for finding in findings:
            key = (finding.rule, finding.layer)
            before = self.said.get(key)
            if before is None or (finding.rule == "BN304" and step - before >= _AGAIN):
                self.said[key] = step
                yield replace(finding, evidence={**finding.evidence, "step": step})

    def _move_on(self, snapshot: Snapshot) -> None:
        self.last = snapshot
        held = self.anchors[-1] if self.anchors else None
        far = held is None or (snapshot.step or 0) - (held.step or 0) >= _UPDATES
        resumed = held is not None and _run(held) != _run(snapshot)
        if far or resumed:
            self.anchors = [*self.anchors, snapshot][-_WINDOW:]


def _run(snapshot: Snapshot) -> int:
    return snapshot.training.run if snapshot.training is not None else 0


def _between(snapshots: list[Snapshot]) -> Movement:
    """The movement over some snapshots in memory, each against the one before."""
    series = Series(tuple(snapshots), {}, "step", (), ())
    history = {
        name: stacked(parts)
        for name in series.names
        if any(parts := [statistics_in(snapshot, name) for snapshot in snapshots])
    }
    return Movement(series, tuple(history), history, Reference("previous", None), {}, Basis.BUFFERS)
