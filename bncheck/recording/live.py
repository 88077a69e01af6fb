"""Findings while the training runs: the rules of `drift` on the last snapshots, as they come."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from bncheck.core.findings import Finding
from bncheck.recording.observation import Observation
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
#: Updates between two judgements at least: they move a running average by two thirds.
_SELDOM: Final = 10
#: A layer may be found by the same rule again after so many updates, and jump by jump.
_AGAIN: Final = 400


@dataclass
class Live:
    """What was found in one model so far, and the snapshots that the next is held against.

    `held` is the one that a training went on from, until there is a `last`.
    """

    series: str = ""
    anchors: list[Snapshot] = field(default_factory=list)
    last: Observation | None = None
    held: Snapshot | None = None
    said: dict[tuple[str, str | None], int] = field(default_factory=dict)
    judged: int = -1
    calls: float = math.inf

    def add(self, now: Observation) -> Iterator[Finding]:
        """One more recorded step; what is found for the first time."""
        step = now.step
        with np.errstate(all="ignore"):
            if not now.is_sound:
                for rule in (non_finite, negative_variance):
                    yield from self._new(rule.check(Network(tuple(now.layers))), step)
            extra = self._was_called_more(now)  # averages recover from other batches in 3/m updates
            if self.anchors and (extra or step - self.judged >= _SELDOM):
                before, self.judged = self.judged, step
                movement = _between([*self.anchors, now.snapshot])
                for series_rule in SERIES_RULES:
                    found = (f for f in series_rule.check(movement) if not _judged(f, before))
                    yield from self._new(found, step)
        self._move_on(now)

    def _was_called_more(self, now: Observation) -> bool:
        """Whether more batches a step came since the last one than before it."""
        last = self.last
        if last is None or now.counter is None or last.counter is None or now.step <= last.step:
            return False
        before, self.calls = self.calls, (now.counter - last.counter) / (now.step - last.step)
        return self.calls > before

    def moved(self, now: Observation) -> dict[str, float]:
        """W2 of every layer from the last one; to be asked before this one is added."""
        before = self.last.snapshot if self.last is not None else self.held
        if before is None:
            return {}
        movement = _between([before, now.snapshot])
        return dict(zip(movement.layers, movement.to_previous[:, -1].tolist(), strict=True))

    def resume(self, snapshot: Snapshot) -> None:
        """The snapshot that the training goes on from."""
        snapshot = replace(snapshot, label=f"step {snapshot.step:,}")
        self.anchors, self.held = [snapshot], snapshot

    def of_layers(self, widths: Mapping[str, int]) -> Live:
        """The same, of a model whose layers were replaced: other widths cannot be compared."""
        known = [*self.anchors, *([] if self.last is None else [self.last.snapshot])]
        same = all(
            state.channels == widths.get(name, state.channels)
            for snapshot in known
            for name, state in snapshot.states.items()
        )
        return self if same else Live(self.series, said=self.said)

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
                more = {"series": self.series} if self.series else {}
                yield replace(finding, evidence={**finding.evidence, "step": step, **more})

    def _move_on(self, now: Observation) -> None:
        self.last = now
        held = self.anchors[-1] if self.anchors else None
        far = held is None or now.step - (held.step or 0) >= _UPDATES
        if far or (held is not None and _run(held) != now.state.run):
            self.anchors = [*self.anchors, now.snapshot][-_WINDOW:]


def _judged(finding: Finding, before: int) -> bool:
    """Whether it is of an interval that was judged when more of what came before was in memory."""
    step = finding.evidence.get("to_step")
    return isinstance(step, int) and step <= before


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
