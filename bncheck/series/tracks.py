"""How far the snapshots of a long record are from each other, without holding them all.

They come in their order, each once; of each the distances are kept, and its numbers are let go.
All layers are compared at once: theirs are one vector, as in `series.distance`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.thresholds import COMMON
from bncheck.series.snapshot import Snapshot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: What snapshots are compared with: the one before, or one that is held from the start.
PREVIOUS, LAST, REFERENCE = "previous", "last", "reference"
_TINY: Final = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True)
class _Flat:
    """All layers of one snapshot behind each other: mean, sigma with eps, and ln sigma."""

    mean: Floats
    sigma: Floats
    log_sigma: Floats


@dataclass
class Tracks:
    """W2, mean shift and log variance ratio of every layer in every snapshot that was added."""

    widths: Mapping[str, int]
    _held: dict[str, _Flat] = field(default_factory=dict)
    _rows: dict[str, list[Floats]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Where each layer begins."""
        ends = np.cumsum(list(self.widths.values()))
        self._starts = np.concatenate([[0], ends[:-1]]).astype(np.intp)
        self._numbers = np.array(list(self.widths.values()), np.float64)
        self._size = int(ends[-1])

    def hold(self, name: str, snapshot: Snapshot) -> None:
        """Compare all that come with this one, as LAST or REFERENCE."""
        self._held[name] = self._flat(snapshot)
        self._rows[name] = []

    def add(self, snapshot: Snapshot) -> None:
        """The next snapshot."""
        now = self._flat(snapshot)
        before = self._held.get(PREVIOUS)
        self._held[PREVIOUS] = now if before is None else before
        for name, base in self._held.items():
            nothing = name == PREVIOUS and before is None
            row = np.full((4, len(self.widths)), np.nan) if nothing else self._compared(base, now)
            self._rows.setdefault(name, []).append(row)
        self._held[PREVIOUS] = now

    def compared_with(self, name: str) -> Floats:
        """W2, mean shift, log variance ratio and common W2: (4, layers, snapshots)."""
        return np.stack(self._rows[name], axis=-1)

    def _compared(self, base: _Flat, found: _Flat) -> Floats:
        with np.errstate(all="ignore"):
            d = (found.mean - base.mean) / base.sigma
            r = found.sigma / base.sigma - 1
            squares = d * d + r * r
            parts = (squares, d, found.log_sigma - base.log_sigma)
            w2, shift, log_ratio = (self._means(part) for part in parts)
            common = self._common(np.minimum(squares, COMMON**2))
            return np.stack([np.sqrt(w2), shift, 2 * log_ratio, np.sqrt(common)])

    def _common(self, squares: Floats) -> Floats:
        """Means to which no channel gives more than all others of its layer together."""
        totals = np.add.reduceat(squares, self._starts)
        others = totals - np.maximum.reduceat(squares, self._starts)
        alone = self._numbers == 1
        common: Floats = np.where(alone, totals, np.minimum(totals, 2 * others)) / self._numbers
        return common

    def _means(self, values: Floats) -> Floats:
        means: Floats = np.add.reduceat(values, self._starts) / self._numbers
        return means

    def _flat(self, snapshot: Snapshot) -> _Flat:
        mean, var = np.full(self._size, np.nan), np.full(self._size, np.nan)
        for (name, width), start in zip(self.widths.items(), self._starts, strict=True):
            state = snapshot.states.get(name)
            if state is not None and state.mean is not None and state.var is not None:
                mean[start : start + width] = state.mean
                var[start : start + width] = state.var
                var[start : start + width] += state.eps
        with np.errstate(all="ignore"):
            var = np.maximum(var, _TINY)
            return _Flat(mean, np.sqrt(var), np.log(var) / 2)
