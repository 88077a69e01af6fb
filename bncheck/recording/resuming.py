"""Whether a training goes on from what a record holds, and from which step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bncheck.core.errors import BncheckError
from bncheck.layers.norm_layer import Assumptions
from bncheck.rules.series.resets import weights_go_on
from bncheck.series.snapshot import Snapshot, read_snapshot

if TYPE_CHECKING:
    from bncheck.reading.record import Entry, Record


@dataclass(frozen=True, slots=True)
class Resumed:
    """The snapshot that a training goes on from, and the step that it has done now."""

    snapshot: Snapshot
    step: int


def resumed(record: Record, now: Snapshot, step: int | None) -> Resumed | None:
    """What the model after its first step goes on from; None where it is another training.

    By its weights, which must be near those of a snapshot. Which snapshot, and which step where the
    training does not say, the batch counters tell: a checkpoint may be older than the last one.
    """
    for entry in _candidates(record, now, step):
        try:
            snapshot = read_snapshot(record.file(entry), None, Assumptions())
        except BncheckError:
            continue
        if _goes_on(snapshot, now):
            return Resumed(snapshot, step or _step(entry, snapshot, now))
    return None


def _candidates(record: Record, now: Snapshot, step: int | None) -> list[Entry]:
    """The last snapshot before what the counters or the step say, then the last of all."""
    entries = list(record.entries)
    if step is not None:
        before = [entry for entry in entries if entry.step < step]
    elif now.counter is not None:
        before = [e for e in entries if e.counter is not None and e.counter < now.counter]
    else:
        before = entries
    return list({entry.step: entry for entry in [*before[-1:], *entries[-1:]]}.values())


def _goes_on(before: Snapshot, now: Snapshot) -> bool:
    """Whether the weights of most layers do."""
    shared = before.states.keys() & now.states.keys()
    near = sum(weights_go_on(before.states[name], now.states[name]) for name in shared)
    return bool(shared) and 2 * near > len(shared)


def _step(entry: Entry, before: Snapshot, now: Snapshot) -> int:
    """As many steps on as the counter has counted; the next where it fell back."""
    if entry.counter is None or now.counter is None or now.counter <= entry.counter:
        return entry.step + 1
    calls = max(1, round(entry.counter / entry.step)) if entry.step else 1
    return entry.step + max(1, (now.counter - entry.counter) // calls)
