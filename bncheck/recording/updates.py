"""Batches by what they made of running statistics, where no hook has told their moments."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.recording.batch import Batch, Glance
from bncheck.recording.state import momentum_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bncheck.recording.seeing import Held

    Floats = NDArray[np.float64]

#: The noise of one image of independent normal values: Vm = sigma^2, Vq = 2 sigma^4.
_NORMAL: Final = 1.5


def from_updates(
    before: Held,
    after: Held,
    names: Collection[str],
    glances: Mapping[str, Glance],
    like: Mapping[str, Batch],
) -> dict[str, Batch]:
    """The batches of the layers in `names` that moved running statistics from `before` to `after`.

    new = share old + (1 - share) batch, solved for the batch. None of a layer that made no update,
    or made others than those that were looked at. Single images differ as they did in the batch
    `like`, in proportion to the variance.
    """
    shares = _shares(before, after, names, glances)
    share = np.repeat([shares.get(norm.name, np.nan) for norm in before.norms], before.widths)
    mean, var = (
        (new - share * old) / (1 - share)
        for old, new in ((before.mean, after.mean), (before.var, after.var))
    )
    var = np.maximum(var, 0.0)
    found = {}
    for norm, own in zip(before.norms, before.places, strict=True):
        if norm.name in shares:
            glance, known = glances.get(norm.name, Glance(1)), like.get(norm.name)
            unit = np.full(norm.channels, _NORMAL) if known is None else known.unit
            found[norm.name] = Batch(
                mean[own], var[own], unit, glance.images, glance.calls, glance.largest
            )
    return found


def _shares(
    before: Held, after: Held, names: Collection[str], glances: Mapping[str, Glance]
) -> dict[str, float]:
    """How much of the old average is left in the new one, of the layers that tell."""
    found = {}
    for norm, old, new in zip(before.norms, before.counters, after.counters, strict=True):
        if norm.name not in names or old is None or new is None or not norm.module.training:
            continue
        calls, glance = new - old, glances.get(norm.name)
        if calls < 1 or (glance is not None and glance.calls != calls):
            continue
        share = share_left(momentum_of(norm.module), old, new)
        if 0 <= share < 1:
            found[norm.name] = share
    return found


def share_left(momentum: float | None, old: float, new: float) -> float:
    """The share of the old average that is left when the counter went from `old` to `new`."""
    return old / new if momentum is None else (1 - momentum) ** int(new - old)
