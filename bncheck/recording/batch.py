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

_TINY: Final = float(np.finfo(np.float64).tiny)
#: Where nothing is known of them, a batch is taken for one of so many normally distributed images.
_ASSUMED_IMAGES: Final = 8.0
_NORMAL: Final = 2.0


@dataclass(frozen=True, slots=True)
class Batch:
    """A layer's batch: mean and unbiased variance by channel, the average of its calls.

    `var_of_means` and `var_of_squares` are how much single images differ: the variances of their
    means, and of their mean squares about the mean. `images` in all, `largest` the largest absolute
    value.
    """

    mean: Floats
    var: Floats
    var_of_means: Floats
    var_of_squares: Floats
    images: float
    calls: int
    largest: float

    def noise(self, scale: Floats) -> Floats:
        """What W2^2 in units of `scale`, a variance, is off by with one image, by chance."""
        own = np.maximum(self.var, _TINY)
        noise: Floats = (self.var_of_means + self.var_of_squares / (4 * own)) / scale
        return noise


@dataclass(frozen=True, slots=True)
class Glance:
    """A layer's calls of a step of which the moments were not taken."""

    calls: int
    images: float = _ASSUMED_IMAGES
    largest: float = float("nan")


def from_update(
    before: tuple[Floats, Floats],
    after: tuple[Floats, Floats],
    share: float,
    glance: Glance | None = None,
    like: Batch | None = None,
) -> Batch | None:
    """The batch that moved running statistics from `before` to `after`; None where none can have.

    new = share old + (1 - share) batch, solved for the batch. Single images differ as they did in
    the batch `like`, in proportion; where a channel did not vary in it, or it is not known, as much
    as they can.
    """
    if not 0 <= share < 1:
        return None
    mean, var = ((new - share * old) / (1 - share) for old, new in zip(before, after, strict=True))
    var = np.maximum(var, 0.0)
    glance = Glance(1) if glance is None else glance
    if like is None:
        of_means, of_squares = var, _NORMAL * var**2
    else:
        of_means, of_squares = _in_proportion(like, var, glance)
    return Batch(mean, var, of_means, of_squares, glance.images, glance.calls, glance.largest)


def _in_proportion(like: Batch, var: Floats, glance: Glance) -> tuple[Floats, Floats]:
    """Of one image that alone has the feature, the square is as many times the variance as there
    are images."""
    varied = like.var > 0
    known = np.where(varied, like.var, 1.0)
    of_means = np.where(varied, like.var_of_means / known, 1.0)
    of_squares = np.where(varied, like.var_of_squares / known**2, glance.images / glance.calls)
    return of_means * var, of_squares * var**2
