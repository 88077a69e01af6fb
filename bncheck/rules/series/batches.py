"""What batches of recorded steps were like, as far as that is no chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bncheck.layers.norm_layer import DEFAULT_MOMENTUM

if TYPE_CHECKING:
    from bncheck.series.snapshot import Snapshot, State

#: W2^2 of one batch counts from so many times its noise: of few images, or of features that few
#: images have, a single batch says little.
_NOISES: Final = 4.0
#: An average is judged from 3/m updates on, when 5 % of its initial value are left, or from these.
_WARM: Final = 50


def batch_distance(snapshot: Snapshot, name: str, *, certain: bool = True) -> float:
    """W2 of running statistics from the batch, most channels taking part.

    0 where it is not known, and where it may be chance unless that is asked for, too.
    """
    seen = snapshot.training.seen.get(name) if snapshot.training is not None else None
    if seen is None or seen.w2 is None or seen.training is False:
        return 0.0
    w2 = seen.w2 if seen.common is None else seen.common
    return w2 if not certain or w2**2 >= _NOISES * (seen.noise or 0.0) else 0.0


def is_warm(state: State | None) -> bool:
    """Whether a running average has forgotten what it began with."""
    if state is None:
        return False
    momentum = DEFAULT_MOMENTUM if state.momentum is None else state.momentum
    return momentum > 0 and (state.counter or 0) >= min(3 / momentum, _WARM)
