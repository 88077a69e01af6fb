"""A batch against running statistics, and the batches of several processes against each other.

In running coordinates, as in `measuring.deviation`: d = (mu - running_mean) / sigma_r,
r = sigma / sigma_r, W2^2 = d^2 + (r - 1)^2. By chance it is (kappa / B + 1 / B)(Vm / sigma^2 +
Vq / (4 sigma^4)), kappa = m / (2 - m), which is taken off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.thresholds import COMMON
from bncheck.measuring.deviation import averaging_noise
from bncheck.reading.training_state import Seen
from bncheck.recording.batch import Batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_TINY: Final = float(np.finfo(np.float64).tiny)
#: W2^2 between processes counts from so many times its noise: chance is no difference.
_NOISES: Final = 4.0


def seen(batch: Batch, mean: Floats, var: Floats, eps: float, momentum: float | None) -> Seen:
    """How far running statistics, those before the step, are from the batch."""
    with np.errstate(all="ignore"):
        scale = np.maximum(var + eps, _TINY)
        d = (batch.mean - mean) / np.sqrt(scale)
        ratio = np.maximum(batch.var + eps, _TINY) / scale
        unit = float(np.mean(batch.noise(scale)))
        kappa = averaging_noise(momentum, None)
        noise = unit * (kappa * batch.calls + 1) / max(batch.images, 1.0)
        squares = d**2 + (np.sqrt(ratio) - 1) ** 2
        w2 = float(np.mean(squares)) - noise
        common = float(np.mean(np.minimum(squares, COMMON**2))) - noise
    return Seen(
        _root(w2),
        _finite(float(np.mean(d))),
        _finite(float(np.mean(np.log(ratio)))),
        batch.images,
        _finite(batch.largest),
        common=_root(common),
        noise=_finite(noise),
    )


def _root(square: float) -> float | None:
    return _finite(math.sqrt(max(0.0, square)) if math.isfinite(square) else square)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def pooled(batches: Sequence[Batch], between: bool) -> Batch:
    """The batches of several processes as one; with the variance `between` them if they share it.

    SyncBatchNorm normalises with the moments of all; any other layer with its own.
    """
    if len(batches) == 1:
        return batches[0]
    weights = np.array([batch.images for batch in batches], np.float64)
    weights /= weights.sum()
    mean, var, means, squares = (
        np.einsum("r,rc->c", weights, np.stack([getattr(batch, name) for batch in batches]))
        for name in ("mean", "var", "var_of_means", "var_of_squares")
    )
    if between:
        apart = np.stack([batch.mean - mean for batch in batches])
        var = var + np.einsum("r,rc->c", weights, apart**2)
    return Batch(
        mean, var, means, squares, sum(batch.images for batch in batches),
        max(batch.calls for batch in batches), max(batch.largest for batch in batches),
    )  # fmt: skip


def furthest(batches: Sequence[Batch], eps: float) -> tuple[float, int]:
    """The process whose batch is furthest from all others', and W2 between, noise taken off."""
    found = [(_apart(batches, rank, eps), rank) for rank in range(len(batches))]
    return max(found, key=lambda pair: pair[0])


def _apart(batches: Sequence[Batch], rank: int, eps: float) -> float:
    own = batches[rank]
    others = pooled([batch for place, batch in enumerate(batches) if place != rank], False)
    with np.errstate(all="ignore"):
        scale = np.maximum(others.var + eps, _TINY)
        d = (own.mean - others.mean) / np.sqrt(scale)
        r = np.sqrt(np.maximum(own.var + eps, _TINY) / scale)
        w2 = float(np.mean(d**2 + (r - 1) ** 2))
        unit = float(np.mean((own.noise(scale) + others.noise(scale)) / 2))
    noise = unit * (1 / max(own.images, 1.0) + 1 / max(others.images, 1.0))
    return math.sqrt(w2 - noise) if math.isfinite(w2) and w2 > _NOISES * noise else 0.0
