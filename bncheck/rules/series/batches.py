"""What batches of recorded steps were like, and how surely that is no chance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from bncheck.core.thresholds import W2_WARNING
from bncheck.layers.norm_layer import DEFAULT_MOMENTUM
from bncheck.measuring.deviation import averaging_noise

if TYPE_CHECKING:
    from bncheck.reading.training_state import Seen
    from bncheck.series.snapshot import Snapshot, State

#: An average is judged from 3/m updates on, when 5 % of its initial value are left, or from these:
#: 3/m of the smallest momentum that is common, EfficientNet's 0.01.
_WARM: Final = 300
_TINY: Final = 1e-300
_LARGE: Final = 1e6


def distance_text(w2: float) -> str:
    """0.53, 1,234.00; from a million on 9.43e+143: nobody reads 150 digits."""
    return f"{w2:,.2f}" if w2 < _LARGE else f"{w2:.3g}"


def batch_distance(snapshot: Snapshot, name: str) -> float:
    """W2 of running statistics from the batch, without what it is by chance; 0 where unknown.

    And where the batches of several processes differ: running statistics are those of one process,
    and not of the batch of all. That is BN303.
    """
    return _w2(snapshot, name, False)


def batch_change(snapshot: Snapshot, name: str) -> float:
    """The same, but for a young average without what is left of its beginning."""
    return _w2(snapshot, name, True)


def surprise(snapshots: Iterable[Snapshot], name: str) -> float:
    """How surely several batches in a row are no chance: a product of W2^2 over its expectation.

    Each factor is 1 on average by chance, and so is the product: that it ever exceeds n has a
    probability of at most 1/n (Ville 1939), whatever the distribution.
    """
    return math.prod(_factor(snapshot, name) for snapshot in snapshots)


def _factor(snapshot: Snapshot, name: str) -> float:
    seen = snapshot.training.seen.get(name) if snapshot.training is not None else None
    if seen is None or seen.w2 is None:
        return 1.0
    noise = max(seen.noise or 0.0, _TINY)
    return min(1 + _own_w2(seen, True) ** 2 / noise, 1e6)


def _w2(snapshot: Snapshot, name: str, debiased: bool) -> float:
    seen = snapshot.training.seen.get(name) if snapshot.training is not None else None
    if seen is None or seen.w2 is None or seen.training is False:
        return 0.0
    if (seen.apart or 0.0) >= W2_WARNING:
        return 0.0
    return _own_w2(seen, debiased)


def _own_w2(seen: Seen, debiased: bool) -> float:
    if debiased and seen.debiased is not None:
        return seen.debiased
    return (seen.w2 if seen.common is None else seen.common) or 0.0


def by_chance(snapshots: Sequence[Snapshot], name: str) -> float:
    """E[W2^2] of two averages of a layer by chance, by what its batches have differed by so far.

    An average varies kappa = m / (2 - m) as much as a batch. 0 where nothing is known: only a
    record tells.
    """
    for snapshot in reversed(snapshots):
        seen = snapshot.training.seen.get(name) if snapshot.training is not None else None
        state = snapshot.states.get(name)
        if seen is not None and seen.noise is not None and state is not None:
            return 2 * averaging_noise(state.momentum, None) * seen.noise
    return 0.0


def are_settled(snapshots: Sequence[Snapshot], name: str) -> bool:
    """Whether `batch_change` can be trusted for the last snapshots.

    Not where the momentum changed: a young average is then judged with its beginning again.
    """
    states = [snapshot.states.get(name) for snapshot in snapshots]
    momenta = {None if state is None else state.momentum for state in states}
    return len(momenta) == 1 and all(_is_settled(one, name) for one in snapshots[-3:])


def _is_settled(snapshot: Snapshot, name: str) -> bool:
    seen = snapshot.training.seen.get(name) if snapshot.training is not None else None
    young = seen is not None and seen.debiased is not None
    return young or is_warm(snapshot.states.get(name))


def is_warm(state: State | None) -> bool:
    """Whether a running average has forgotten what it began with."""
    return state is not None and (state.counter or 0) >= warm_from(state.momentum)


def warm_from(momentum: float | None) -> float:
    """The number of updates that it takes for that."""
    momentum = DEFAULT_MOMENTUM if momentum is None else momentum
    return min(3 / momentum, _WARM) if momentum > 0 else math.inf
