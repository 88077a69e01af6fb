"""How far one distribution is from another, channel by channel and for a layer.

In the reference's coordinates, as in `measuring.deviation`: sigma^2 = var + eps,

    d = (mu - mu_ref) / sigma_ref      r = sigma / sigma_ref      W2 = sqrt(d^2 + (r - 1)^2)

W2 is the Wasserstein distance of normal distributions in units of the reference's standard
deviation, and a lower bound for any other shapes (Gelbrich 1990). A layer's W2 is the RMS over its
channels. Reference moments measured on N images are themselves off by (Vm/sigma^2 +
Vq/(4 sigma^4))/N in W2^2 on average: that is taken off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bncheck.core.thresholds import COMMON

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Singles = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and variance of a layer's channels, shape (C,) or (snapshots, C); `eps` as it adds it.

    `noise` is what W2^2 against this is off by because it was measured on a sample; 0 for buffers,
    whose noise (momentum and batch size) the file does not tell.
    """

    mean: Singles
    var: Singles
    eps: float
    noise: float = 0.0

    @property
    def sigma(self) -> Floats:
        """The standard deviation, eps included; never 0."""
        var = self.var.astype(np.float64) + self.eps
        sigma: Floats = np.sqrt(np.maximum(var, np.finfo(np.float64).tiny))
        return sigma

    def shifted(self) -> Statistics:
        """For every snapshot the one before; nothing (NaN) for the first."""
        return replace(self, mean=_before(self.mean), var=_before(self.var))

    def at(self, place: int) -> Statistics:
        """One snapshot of several."""
        return replace(self, mean=self.mean[place], var=self.var[place])


def stacked(parts: Sequence[Statistics | None]) -> Statistics:
    """A layer over all snapshots, NaN where it has no statistics; one of the parts must exist."""
    known = next(part for part in parts if part is not None)
    nothing = np.full_like(known.mean, np.nan)
    noise = max(part.noise for part in parts if part is not None)
    means = [nothing if part is None else part.mean for part in parts]
    variances = [nothing if part is None else part.var for part in parts]
    return Statistics(np.stack(means), np.stack(variances), known.eps, noise)


def _before(array: Singles) -> Singles:
    return np.concatenate([np.full_like(array[:1], np.nan), array[:-1]])


@dataclass(frozen=True, slots=True)
class Distance:
    """A layer against its reference: a number, or one for each snapshot.

    `mean_shift` is the mean of d, `log_variance_ratio` that of ln(var / var_ref): both signed,
    positive where the later distribution lies higher or is wider. `channels` is W2 by channel,
    noise included; `common` is W2 where no channel counts for more than 0.7, nor for more than all
    others together: a few channels that hardly ever vary do not make it.
    """

    w2: Floats
    mean_shift: Floats
    log_variance_ratio: Floats
    channels: Floats
    common: Floats


def distance(reference: Statistics, found: Statistics) -> Distance:
    """Distance of `found` from `reference`; both have the same number of channels."""
    base, sigma = reference.sigma, found.sigma
    d = (found.mean.astype(np.float64) - reference.mean) / base
    r = sigma / base
    channels = np.hypot(d, r - 1)
    return Distance(
        w2=np.sqrt(np.maximum(0.0, np.mean(channels**2, axis=-1) - reference.noise)),
        mean_shift=np.mean(d, axis=-1),
        log_variance_ratio=2 * np.mean(np.log(r), axis=-1),
        channels=channels,
        common=np.sqrt(np.maximum(0.0, _common(channels) - reference.noise)),
    )


def _common(channels: Floats) -> Floats:
    """Mean square over channels, none for more than 0.7 nor than all others together."""
    squares = np.minimum(channels, COMMON) ** 2
    total = squares.sum(axis=-1)
    if squares.shape[-1] > 1:
        total = np.minimum(total, 2 * (total - squares.max(axis=-1)))
    common: Floats = total / squares.shape[-1]
    return common


def histogram_distance(reference: Floats, found: Floats, width: float) -> Floats:
    """W1 of every channel from counts (C, bins) over the same bins of `width`.

    The area between the cumulative distributions, exact up to one bin.
    """
    total = [np.maximum(counts.sum(axis=1, keepdims=True), 1) for counts in (reference, found)]
    first = np.cumsum(reference, axis=1) / total[0]
    second = np.cumsum(found, axis=1) / total[1]
    areas: Floats = np.abs(first - second).sum(axis=1) * width
    return areas
