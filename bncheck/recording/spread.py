"""How much a channel's batches differ from one to the next: a running estimate.

A batch's own spread says nothing of features that few images have: most batches have none of them,
and look as if the network had lost them; the next has one, and its variance is a hundred times as
large. Half the squared difference of two batches in a row has the variance of one for its
expectation, however fast the network moves meanwhile (von Neumann 1941).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Recorded batches that an estimate remembers.
_MEMORY: Final = 20
#: The square of 3 sigma.
_JUMP: Final = 9.0


@dataclass
class Spread:
    """Of every channel, in units of its running statistics: `noise`, E[W2^2] by chance."""

    noise: Floats
    _before: Floats | None = field(default=None)
    _number: Floats | float = 0.0

    def add(
        self, deviation: Floats, warm: NDArray[np.bool_], chance: Floats, places: Sequence[slice]
    ) -> None:
        """The next batch: (2, C), how far its mean and its sigma are from the running ones.

        Nothing is learnt of channels that are not `warm`, whose averages still approach them, and
        of a layer at one of `places` that jumps: more than 3 sigma in most of its channels, by what
        was known or is by `chance`. Features that few images have are not most.
        """
        before, self._before = self._before, np.where(warm, deviation, np.nan)
        if before is None:
            return
        with np.errstate(all="ignore"):
            change = self._before - before
            step = (change * change).sum(axis=0) / 2
            expected = np.maximum(chance, self.noise)
        starts = [own.start for own in places]
        far = np.add.reduceat(step, starts) > _JUMP * np.add.reduceat(expected, starts)
        for place in np.flatnonzero(far).tolist():  # their means: cheaper than two medians
            own = places[place]
            if np.median(step[own]) > _JUMP * np.median(expected[own]):
                step[own] = np.nan
        known = np.isfinite(step)
        self._number = self._number + known
        share = known / np.minimum(np.maximum(self._number, 1), _MEMORY)
        self.noise = self.noise + share * (np.where(known, step, 0.0) - self.noise)
