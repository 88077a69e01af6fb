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
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Floats: TypeAlias = NDArray[np.float64]

#: Rows of a packed array: the fields of `Moments` in their order, whose numbers are repeated for
#: each channel, so that layers side by side are merged at once.
_ROWS: Final = 9
_WEIGHT, _PIVOT, _MEANS, _SQUARES, _PRODUCTS = 1, 3, slice(4, 6), slice(6, 8), 8


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

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of images together."""
        return unpack(merged(self.pack(), other.pack()))

    def pack(self) -> Floats:
        """Everything in one array, (9, C), to be merged with others or sent to other processes."""
        rows = np.empty((_ROWS, len(self.pivot)))
        rows[0], rows[_WEIGHT], rows[2] = self.images, self.weight, self.squares
        vectors = (self.pivot, self.mean_m, self.mean_q, self.sum_mm, self.sum_qq, self.sum_mq)
        rows[_PIVOT:] = vectors
        return rows

    @property
    def is_finite(self) -> bool:
        """Whether no image held NaN or infinity."""
        return are_finite(self.pack())


def unpack(rows: Floats) -> Moments:
    """The inverse of `Moments.pack`."""
    images, weight, squares = (float(row[0]) for row in rows[:_PIVOT])
    return Moments(images, weight, squares, *rows[_PIVOT:])


def are_finite(rows: Floats) -> bool:
    """Whether no image of any channel held NaN or infinity."""
    return bool(np.isfinite(rows[_MEANS]).all())


def merged(one: Floats, other: Floats) -> Floats:
    """Both sets of images together: packed, of one layer or of several side by side."""
    other = about(other, one[_PIVOT])
    total = one + other
    share = other[_WEIGHT] / total[_WEIGHT]
    between = one[_WEIGHT] * share
    d = other[_MEANS] - one[_MEANS]
    total[_PIVOT] = one[_PIVOT]
    total[_MEANS] = one[_MEANS] + d * share
    total[_SQUARES] += d**2 * between
    total[_PRODUCTS] += d[0] * d[1] * between
    return total


def about(rows: Floats, pivot: Floats) -> Floats:
    """The same moments about another pivot: m' = m + s, q' = q + 2 s m + s^2."""
    s = rows[_PIVOT] - pivot
    if not s.any():
        return rows
    mean_m, mean_q, sum_mm, sum_qq, sum_mq = rows[_PIVOT + 1 :]
    return np.stack(
        [
            *rows[:_PIVOT],
            pivot,
            mean_m + s,
            mean_q + 2 * s * mean_m + s**2,
            sum_mm,
            sum_qq + 4 * s * sum_mq + 4 * s**2 * sum_mm,
            sum_mq + 2 * s * sum_mm,
        ]
    )


def of_images(m: Floats, q: Floats, values: float, pivot: Floats) -> Moments:
    """The moments of some images with `values` values a channel each; m and q are (n, C)."""
    return unpack(packed(m.copy(), q.copy(), values, pivot))


def packed(m: Floats, q: Floats, values: Floats | float, pivot: Floats) -> Floats:
    """The same as rows; `values` may be another number for each channel, (C,).

    m and q are overwritten: new memory would cost more than the arithmetic.
    """
    images = m.shape[0]
    rows = np.empty((_ROWS, m.shape[1]))
    rows[0], rows[_WEIGHT], rows[2] = images, images * values, images * np.square(values)
    rows[_PIVOT] = pivot
    with np.errstate(invalid="ignore"):  # NaN and infinity are found by `is_finite`
        rows[4], rows[5] = m.mean(axis=0), q.mean(axis=0)
        m -= rows[4]
        q -= rows[5]
    for place, (one, other) in enumerate(((m, m), (q, q), (m, q)), 6):
        rows[place] = values * np.einsum("ij,ij->j", one, other)
    return rows


def packed_vectors(m: Tensor, pivot: Floats) -> Floats:
    """The same for images with one value a channel, so that q = m^2; m is (n, C).

    With m = mean + d, and d adding up to 0, sums of d^2, d^3 and d^4 say all. As for other images,
    the precision is that of m, unless fourth powers go beyond its range.
    """
    import torch

    images = m.shape[0]
    mean = m.sum(0).div_(images)
    d = m - mean
    square = d * d
    s2 = square.sum(0)
    s3, s4 = d.mul_(square).sum(0), square.mul_(square).sum(0)
    powers: Floats = torch.stack((mean, s2, s3, s4)).double().cpu().numpy()
    if m.dtype.itemsize < 8 and not np.isfinite(powers[3]).all():
        return packed_vectors(m.double(), pivot)
    return _of_powers(images, pivot, *powers)


def _of_powers(
    images: int, pivot: Floats, mean: Floats, s2: Floats, s3: Floats, s4: Floats
) -> Floats:
    """From the sums of d^2, d^3 and d^4."""
    rows = np.empty((_ROWS, mean.size))
    rows[:_PIVOT], rows[_PIVOT] = images, pivot
    with np.errstate(invalid="ignore"):  # NaN and infinity are found by `is_finite`
        rows[4], rows[5], rows[6] = mean, s2 / images + mean * mean, s2
        twice = 2 * mean
        s12 = rows[8] = s3 + twice * s2
        rows[7] = s4 - s2 * s2 / images + twice * (s3 + s12)
    return rows


def merged_all(parts: Sequence[Floats]) -> Floats:
    """Several packed sets together: what `merged` gives one by one, for all of them at once."""
    rows = np.stack(parts)
    pivot = rows[0, _PIVOT]
    if (rows[:, _PIVOT] != pivot).any():
        rows = np.stack([about(part, pivot) for part in parts])
    total: Floats = np.add.reduce(rows)
    weights = rows[:, _WEIGHT, None]
    total[_PIVOT] = pivot
    total[_MEANS] = np.add.reduce(rows[:, _MEANS] * (weights / total[_WEIGHT]))
    d = rows[:, _MEANS] - total[_MEANS]
    total[_SQUARES] += np.add.reduce(d * d * weights)
    total[_PRODUCTS] += np.add.reduce(d[:, 0] * d[:, 1] * weights[:, 0])
    return total
