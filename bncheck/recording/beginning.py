"""Young averages without what is left in them of their initial values.

With a momentum of 0.01 a running average holds 37 % of its beginning after 100 updates, and is far
from every batch. After t updates running = s beginning + (1 - s) average, s = (1 - m)^t: solved for
the average of the batches, as Adam's bias correction is for a beginning of 0 (Kingma and Ba 2015).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.recording.seeing import Held
from bncheck.recording.state import momentum_of
from bncheck.recording.updates import share_left

if TYPE_CHECKING:
    from bncheck.measuring.norms import TrackingNorm

#: Shares of the beginning between which an average is young, and updates that it needs: with more
#: of it left, or after fewer updates, the batches are too small a part to tell anything.
_LEAST: Final = 0.05
_MOST: Final = 0.5
_UPDATES: Final = 30


@dataclass
class Beginning:
    """The statistics of a model when the recorder first saw them, or when they began anew."""

    _held: Held | None = None
    _momenta: tuple[float | None, ...] = ()

    def note(self, now: Held) -> None:
        """Look at the averages; where a counter fell or a momentum changed, all begin anew."""
        momenta = tuple(momentum_of(norm.module) for norm in now.norms)
        if self._held is not None and momenta == self._momenta:
            pairs = zip(self._held.counters, now.counters, strict=True)
            if all((old or 0) <= (new or 0) for old, new in pairs):
                return
        self._held, self._momenta = now, momenta

    def without(self, held: Held) -> Held | None:
        """The averages of the batches where they are young, NaN elsewhere; None where none is."""
        if self._held is None:
            return None
        shares = [
            _young_share(*of_layer)
            for of_layer in zip(held.norms, self._held.counters, held.counters, strict=True)
        ]
        if all(share is None for share in shares):
            return None
        share = np.repeat([np.nan if s is None else s for s in shares], held.widths)
        pairs = (held.mean, self._held.mean), (held.var, self._held.var)
        mean, var = ((now - share * old) / (1 - share) for now, old in pairs)
        return replace(held, mean=mean, var=np.maximum(var, 0.0))


def _young_share(norm: TrackingNorm, old: float | None, new: float | None) -> float | None:
    if old is None or new is None or new - old < _UPDATES:
        return None
    share = share_left(momentum_of(norm.module), old, new)
    return share if _LEAST <= share <= _MOST else None
