"""The algebra of moments: per image, about a pivot, merged in float64.

The sampling unit is the image, not the pixel: pixels of one image are alike, so standard errors
that count pixels would be far too small. For each channel, image i gives its mean m_i = mean(x - p)
and its mean square q_i = mean((x - p)^2) about a pivot p near the mean, which keeps fp32 accurate
where mean/sd is 1e4. Of m and q the weighted means, the sums of squared deviations and the sum of
products are kept; two such sets merge exactly (Chan, Golub, LeVeque 1979). The weight of an image
is its number of values, so the pooled moments are those of the concatenated data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

#: Rows of a packed array that hold one number, and rows that hold one number for each channel.
_SCALARS: Final = 3
_VECTORS: Final = 6


@dataclass(frozen=True, slots=True)
class Moments:
    """What one layer saw, channel by channel.

    `images` were seen with `weight` values a channel in all, `squares` the sum of the images'
    squared weights. The six arrays are the pivot; the means of m and q; the weighted sums of
    (m - mean)^2, (q - mean)^2 and of their product.
    """

    images: float
    weight: float
    squares: float
    pivot: Floats
    mean_m: Floats
    mean_q: Floats
    sum_mm: Floats
    sum_qq: Floats
    sum_mq: Floats

    @property
    def mean(self) -> Floats:
        """The mean of all values."""
        return self.pivot + self.mean_m

    @property
    def var(self) -> Floats:
        """The biased variance of all values, within and between images."""
        return np.maximum(self.mean_q - self.mean_m**2, 0.0)

    @property
    def unbiased_var(self) -> Floats:
        """The variance as running_var holds it: n/(n-1) times the biased one."""
        return self.var * (self.weight / max(self.weight - 1.0, 1.0))

    @property
    def within(self) -> Floats:
        """The mean of the variances within images, which is what InstanceNorm averages."""
        return np.maximum(self.mean_q - self.mean_m**2 - self.sum_mm / self.weight, 0.0)

    @property
    def effective_images(self) -> float:
        """The number of equally large images with as much information (Kish)."""
        return self.weight**2 / self.squares

    @property
    def var_of_means(self) -> Floats:
        """Var_i(m_i): how much the images' means differ."""
        return self.sum_mm / self.weight * self._bessel

    @property
    def var_of_squares(self) -> Floats:
        """Var_i of the images' mean squares about the overall mean, not about the pivot.

        q_i about mu is q_i - 2 d m_i + d^2 with d = mean(m), linear in (q_i, m_i).
        """
        d = self.mean_m
        total = self.sum_qq - 4 * d * self.sum_mq + 4 * d**2 * self.sum_mm
        return np.maximum(total, 0.0) / self.weight * self._bessel

    @property
    def _bessel(self) -> float:
        n = self.effective_images
        return n / (n - 1.0) if n > 1 else 0.0

    def about(self, pivot: Floats) -> Moments:
        """The same moments about another pivot: m' = m + s, q' = q + 2 s m + s^2."""
        s = self.pivot - pivot
        if not s.any():
            return self
        return Moments(
            self.images,
            self.weight,
            self.squares,
            pivot,
            self.mean_m + s,
            self.mean_q + 2 * s * self.mean_m + s**2,
            self.sum_mm,
            self.sum_qq + 4 * s * self.sum_mq + 4 * s**2 * self.sum_mm,
            self.sum_mq + 2 * s * self.sum_mm,
        )

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of images together."""
        other = other.about(self.pivot)
        weight = self.weight + other.weight
        share = other.weight / weight
        between = self.weight * share
        dm, dq = other.mean_m - self.mean_m, other.mean_q - self.mean_q
        return Moments(
            self.images + other.images,
            weight,
            self.squares + other.squares,
            self.pivot,
            self.mean_m + dm * share,
            self.mean_q + dq * share,
            self.sum_mm + other.sum_mm + dm**2 * between,
            self.sum_qq + other.sum_qq + dq**2 * between,
            self.sum_mq + other.sum_mq + dm * dq * between,
        )

    def pack(self) -> Floats:
        """Everything in one vector, to be sent to other processes."""
        scalars = [self.images, self.weight, self.squares]
        vectors = (
            self.pivot, self.mean_m, self.mean_q, self.sum_mm, self.sum_qq, self.sum_mq,
        )  # fmt: skip
        return np.concatenate([scalars, *vectors])

    @property
    def is_finite(self) -> bool:
        """Whether no image held NaN or infinity."""
        return bool(np.isfinite(self.mean_m).all() and np.isfinite(self.mean_q).all())


def unpack(vector: Floats) -> Moments:
    """The inverse of `Moments.pack`."""
    images, weight, squares = (float(number) for number in vector[:_SCALARS])
    return Moments(images, weight, squares, *vector[_SCALARS:].reshape(_VECTORS, -1))


def of_images(m: Floats, q: Floats, values: float, pivot: Floats) -> Moments:
    """The moments of some images with `values` values a channel each; m and q are (n, C)."""
    images = m.shape[0]
    with np.errstate(invalid="ignore"):  # NaN and infinity are found by `is_finite`
        mean_m, mean_q = m.mean(axis=0), q.mean(axis=0)
        dm, dq = m - mean_m, q - mean_q
    return Moments(
        float(images),
        float(images * values),
        float(images) * values**2,
        pivot,
        mean_m,
        mean_q,
        values * np.einsum("ij,ij->j", dm, dm),
        values * np.einsum("ij,ij->j", dq, dq),
        values * np.einsum("ij,ij->j", dm, dq),
    )


def merge_all(parts: Sequence[Moments]) -> Moments:
    """Several sets merged in their order."""
    return reduce(Moments.merge, parts)
