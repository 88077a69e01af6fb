"""What a layer's batch is like at a recorded step.

A running average takes one step for each call, so calls of one step (accumulated gradients, a
discriminator's real and fake images) are averaged, and not pooled: with their means apart, their
pooled variance is none that any of them was normalised with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Where nothing is known of it, a batch is taken for one of so many images.
_ASSUMED_IMAGES: Final = 8.0


@dataclass(frozen=True, slots=True)
class Batch:
    """A layer's batch: mean and unbiased variance by channel, the average of its calls.

    `unit` is the noise of one image, in units of the variance: see `noise_of`. `images` in all,
    `largest` the largest absolute value.
    """

    mean: Floats
    var: Floats
    unit: Floats
    images: float
    calls: int
    largest: float


@dataclass(frozen=True, slots=True)
class Glance:
    """A layer's calls of a step of which the moments were not taken."""

    calls: int
    images: float = _ASSUMED_IMAGES
    largest: float = float("nan")


def noise_of(var: Floats, of_means: Floats, of_squares: Floats, images: float) -> Floats:
    """What W2^2 of a batch is off by chance with one image, in units of its variance.

    Vm / sigma^2 + Vq / (4 sigma^4): images differ in their means by Vm, in their mean squares about
    the mean by Vq. Of a channel that is constant nothing is known: the next batch may have one
    image that makes all of it, with Vm = sigma^2 and Vq = B sigma^4.
    """
    known = np.where(var > 0, var, 1.0)
    return np.where(var > 0, of_means / known + of_squares / (4 * known**2), 1 + images / 4)
