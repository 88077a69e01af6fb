"""The movement of all layers over a series: layers x snapshots, against three references.

`grid` is against the reference that the user chose. Whether a layer has settled is judged against
the last snapshot, and a jump is one against the snapshot before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from bncheck.core.thresholds import DEFAULT, Thresholds
from bncheck.layers.norm_layer import DEFAULT_MOMENTUM
from bncheck.series.distance import Statistics, distance, stacked
from bncheck.series.series import Series
from bncheck.series.snapshot import Snapshot, State, other_weights_differ
from bncheck.series.tracks import LAST, PREVIOUS, REFERENCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Per layer its distribution in every snapshot, arrays of (snapshots, C); NaN where it has none.
History: TypeAlias = "Mapping[str, Statistics]"


class Basis(StrEnum):
    """Where the distributions come from."""

    BUFFERS = "buffers"
    DATA = "data"


@dataclass(frozen=True, slots=True)
class Reference:
    """What everything is held against: first, last, previous or a file of its own."""

    kind: str
    path: Path | None


@dataclass(frozen=True, slots=True)
class Grid:
    """Layers x snapshots; NaN where there is nothing to compare."""

    w2: Floats
    mean_shift: Floats
    log_variance_ratio: Floats
    common: Floats


@dataclass(frozen=True)
class Movement:
    """A series with the distributions of its layers. Arrays are (layers, snapshots).

    `held` gives, per layer, what the reference says where that is one and the same for all
    snapshots. `w1` is the histogram distance (--shape), `outlines` the histograms themselves,
    summed over channels, `samples` the size of the data. Of a long record, whose distances are in
    `series.long`, `history` has the snapshots at the places in `shown`.
    """

    series: Series
    layers: tuple[str, ...]
    history: History
    reference: Reference
    held: Mapping[str, Statistics]
    source: Basis
    thresholds: Thresholds = DEFAULT
    key: str | None = None
    samples: int | None = None
    w1: Floats | None = None
    outlines: Mapping[str, Floats] | None = None

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """The snapshots in their order."""
        return self.series.snapshots

    @property
    def shown(self) -> Sequence[int]:
        """The places of the snapshots that `history` has."""
        long = self.series.long
        return range(len(self.snapshots)) if long is None else long.shown

    @cached_property
    def grid(self) -> Grid:
        """Against the reference that was chosen."""
        if self.series.long is not None:
            return self._tracked(PREVIOUS if self.reference.kind == PREVIOUS else REFERENCE)
        if self.reference.kind == "previous":
            return self._compared(Statistics.shifted)
        return self._compared(lambda found: None)

    @cached_property
    def to_last(self) -> Floats:
        """W2 to the last snapshot."""
        if self.series.long is not None:
            return self._tracked(LAST).w2
        return self._compared(lambda found: found.at(-1)).w2

    @cached_property
    def to_previous(self) -> Floats:
        """W2 to the snapshot before; NaN in the first column."""
        return self._steps.w2

    @property
    def common_to_previous(self) -> Floats:
        """The same where no channel counts for more than 0.7, nor than all others together."""
        return self._steps.common

    @property
    def ratio_to_previous(self) -> Floats:
        """The log variance ratio to the snapshot before."""
        return self._steps.log_variance_ratio

    @cached_property
    def _steps(self) -> Grid:
        if self.series.long is not None:
            return self._tracked(PREVIOUS)
        return self._compared(Statistics.shifted)

    @cached_property
    def dead(self) -> NDArray[np.int64]:
        """Channels that never vary, by the running variance."""
        counts = [
            [s.states[name].dead if name in s.states else 0 for s in self.snapshots]
            for name in self.layers
        ]
        return np.array(counts, np.int64).reshape(len(self.layers), len(self.snapshots))

    @cached_property
    def lag(self) -> Floats:
        """W2 of the running statistics from what is measured; NaN with buffers alone."""
        lag = np.full((len(self.layers), len(self.snapshots)), np.nan)
        for row, name in enumerate(self.layers):
            buffers = [statistics_in(snapshot, name) for snapshot in self.snapshots]
            if self.source is Basis.DATA and any(buffers):
                lag[row] = distance(stacked(buffers), self.history[name]).w2
        return lag

    @cached_property
    def predicted_lag(self) -> Floats:
        """W2 that running averages trail by, from their own speed; NaN where steps are not known.

        An average with momentum m is (1 - m)/m steps old: PyTorch's 0.1, where nothing else is
        known, makes 9.
        """
        steps = np.array([np.nan if s.position is None else s.position for s in self.snapshots])
        gaps = np.diff(steps.astype(np.float64), prepend=np.nan)
        ages = [_age(self.snapshots[-1], name) for name in self.layers]
        speed: Floats = self.to_previous / np.where(gaps > 0, gaps, np.nan)
        lag: Floats = speed * np.minimum(np.array(ages)[:, None], gaps)
        return lag

    @cached_property
    def settled(self) -> tuple[int | None, ...]:
        """Per layer the first snapshot from which W2 to the last stays below the warning level."""
        places: list[int | None] = []
        for row in self.to_last:
            moving = np.flatnonzero(~(row < self.thresholds.w2_warning))
            place = int(moving[-1]) + 1 if moving.size else 0
            places.append(place if place < row.size else None)
        return tuple(places)

    @property
    def moving(self) -> list[int]:
        """Layers that still moved on the way to the last snapshot."""
        last = len(self.snapshots) - 1
        return [row for row, place in enumerate(self.settled) if last and place == last]

    @property
    def lost(self) -> list[int]:
        """Layers without usable statistics in the last snapshot."""
        return [row for row, place in enumerate(self.settled) if place is None]

    @property
    def noise(self) -> float:
        """The largest W2 that sampling alone would show, taken off; 0 for buffers."""
        return float(max((held.noise for held in self.held.values()), default=0.0) ** 0.5)

    def important(self, number: int) -> list[int]:
        """The layers that matter first: those that settled last, then those that moved furthest."""
        furthest = np.nan_to_num(self.to_last).max(axis=1, initial=0.0)
        late = [-1 if place is None else place for place in self.settled]
        order = sorted(range(len(self.layers)), key=lambda row: (-late[row], -furthest[row], row))
        return order[:number]

    def weights_moved(self, first: int, last: int) -> bool:
        """Whether any weight at all differs between two snapshots."""
        before, after = self.snapshots[first], self.snapshots[last]
        known = before.states.keys() & after.states.keys()
        if any(before.states[n].parameters != after.states[n].parameters for n in known):
            return True
        if before.training is not None and after.training is not None:  # they hold no others
            return before.training.weights != after.training.weights
        return other_weights_differ(before.path, after.path, self.key)

    def _tracked(self, name: str) -> Grid:
        """What was compared while a long record was read."""
        assert self.series.long is not None
        tracks = self.series.long.tracks
        places = {layer: row for row, layer in enumerate(tracks.widths)}
        rows = [places[layer] for layer in self.layers]
        return Grid(*(values[rows] for values in tracks.compared_with(name)))

    def _compared(self, reference: Callable[[Statistics], Statistics | None]) -> Grid:
        """Every layer against what `reference` makes of it; None stands for what is `held`."""
        shape = (len(self.layers), len(self.snapshots))
        w2, shift, log_ratio, common = (np.full(shape, np.nan) for _ in range(4))
        for row, name in enumerate(self.layers):
            base = reference(self.history[name]) or self.held.get(name)
            if base is not None:
                d = distance(base, self.history[name])
                w2[row], shift[row], log_ratio[row] = d.w2, d.mean_shift, d.log_variance_ratio
                common[row] = d.common
        return Grid(w2, shift, log_ratio, common)


def history_of(series: Series) -> dict[str, Statistics]:
    """The running statistics of every layer that has any, in the snapshots whose numbers are held.

    A layer of a long record that none of those has is NaN in all.
    """
    places = range(len(series.snapshots)) if series.long is None else series.long.shown
    found = {}
    for name in series.names:
        parts: Sequence[Statistics | None]
        parts = [statistics_in(series.snapshots[place], name) for place in places]
        if not any(parts) and series.long is not None:
            usable = [s.states[name] for s in series.snapshots if s.states[name].usable]
            parts = [_nothing(state) for state in usable[:1]] * len(places)
        if any(parts):
            found[name] = stacked(parts)
    return found


def _nothing(state: State) -> Statistics:
    nan = np.full(state.channels, np.nan, np.float32)
    return Statistics(nan, nan, state.eps)


def statistics_in(snapshot: Snapshot, name: str) -> Statistics | None:
    """The running statistics of a layer, where the snapshot has usable ones."""
    state = snapshot.states.get(name)
    if state is None or state.mean is None or state.var is None:
        return None
    return Statistics(state.mean, state.var, state.eps)


def _age(snapshot: Snapshot, name: str) -> float:
    state = snapshot.states.get(name)
    momentum = DEFAULT_MOMENTUM if state is None or state.momentum is None else state.momentum
    return (1 - momentum) / momentum if momentum > 0 else float("nan")
