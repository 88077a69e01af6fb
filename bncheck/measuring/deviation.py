"""How far a layer's running statistics are from what it sees.

Per channel, in the layer's own running coordinates (Batch Renormalization's d and r, Ioffe 2017):

    d = (mu - running_mean) / sigma_r        r = sigma / sigma_r        sigma^2 = var + eps
    W2 = sqrt(d^2 + (r - 1)^2)

W2 is the RMS error of the layer's normalised output, and a lower bound of the Wasserstein distance
between what it expects and what it sees, whatever the shapes (Gelbrich 1990). A layer's W2 is the
RMS over its channels. The reference data are a sample, so even right statistics deviate from their
moments, by (Vm / sigma^2 + Vq / (4 sigma^4)) / N on the average of W2^2: that is taken off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from bncheck.layers.norm_layer import NormLayer
from bncheck.measuring.moments import Moments
from bncheck.reading.kinds import NormKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Deviation:
    """One layer's running statistics against the moments of its input."""

    d: Floats
    r: Floats
    log_variance_ratio: Floats  # ln(running_var / var), eps in both
    unit_noise: Floats  # what W2^2 of one image's moments would be by chance
    images: float

    @property
    def channels(self) -> Floats:
        """W2 of every channel, reference noise included."""
        return np.hypot(self.d, self.r - 1)

    @cached_property
    def w2(self) -> float:
        """W2 of the layer, reference noise taken off."""
        return math.sqrt(max(0.0, float(np.mean(self.channels**2)) - self.reference_noise))

    @property
    def reference_noise(self) -> float:
        """What W2^2 would be with right statistics, because the reference data are a sample."""
        return float(np.mean(self.unit_noise)) / self.images

    @property
    def signed(self) -> float:
        """Mean ln(running_var / var): positive where the running variance is too large."""
        return float(np.mean(self.log_variance_ratio))

    @property
    def mean_share(self) -> float:
        """How much of W2^2 is due to means: 1 all of it, 0 all variances."""
        total = float(np.sum(self.channels**2))
        return float(np.sum(self.d**2)) / total if total else 0.0

    def z(self, averaging: float) -> Floats:
        """|W2| in units of its noise; `averaging` is kappa / B of the running average."""
        noise = np.sqrt(self.unit_noise * (averaging + 1 / self.images))
        return np.divide(self.channels, noise, out=np.zeros_like(noise), where=noise > 0)

    def worst(self, number: int, floor: float) -> list[int]:
        """The channels that deviate most, at least by `floor`."""
        order = np.argsort(-self.channels, kind="stable")[:number]
        return [int(channel) for channel in order if self.channels[channel] >= floor]


def deviation(layer: NormLayer, moments: Moments) -> Deviation:
    """Hold a layer against what it saw. Its statistics must be finite."""
    assert layer.statistics is not None
    mean, var = layer.statistics
    eps = layer.eps.value or 0.0
    seen = moments.within if layer.kind is NormKind.INSTANCE else moments.var
    running = np.maximum(var + eps, np.finfo(np.float64).tiny)
    measured = seen + eps
    spread = np.divide(
        moments.var_of_squares, 4 * measured, out=np.zeros_like(measured), where=measured > 0
    )
    return Deviation(
        d=(moments.mean - mean) / np.sqrt(running),
        r=np.sqrt(measured / running),
        log_variance_ratio=np.log(running / np.maximum(measured, np.finfo(np.float64).tiny)),
        unit_noise=(moments.var_of_means + spread) / running,
        images=max(moments.effective_images, 1.0),
    )


def averaging_noise(momentum: float | None, batches: int | None) -> float:
    """kappa = m / (2 - m) (1 - (1 - m)^2t): the variance of a running average of unit noise.

    For a cumulative average (momentum None) it is 1 / t; for an average that never moved, 0.
    """
    if momentum is None:
        return 1.0 / batches if batches else 0.0
    if not 0 < momentum <= 1:
        return 0.0
    settled = 1.0 if batches is None else 1 - (1 - momentum) ** (2 * batches)
    return momentum / (2 - momentum) * settled
