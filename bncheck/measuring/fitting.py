"""Scales and shifts of an input that bring a layer to its statistics, by what the layer sees.

Means that a layer sees are linear in a scale a and a shift b of its input, and variances quadratic
in them, as far as what comes before the layer is linear:

    mean(a, b) = c + a M + b L        var(a, b) = a^2 A + 2 a b B + b^2 C

(with zero padding even a constant image varies). A few runs give these numbers of every channel;
where the layer comes behind an activation they hold near the input only, so that is done again from
the scale found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import numpy as np

from bncheck.layers.norm_layer import NormLayer
from bncheck.measuring.moments import Moments

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float64]
    Change: TypeAlias = Callable[[Tensor], Tensor]
    Fit: TypeAlias = Callable[["Stem", Tensor], "Fitted | None"]

#: Rounds of fitting a x + b: activations before the layer make it no linear one.
_ROUNDS: Final = 3
#: Scales that are tried, and how often the best one's neighbourhood is looked at again.
_SCALES: Final = np.geomspace(1e-5, 1e5, 51)
_FINER: Final = 4
#: Scales nearer to 1 are none, and shifts by less than this share of a standard deviation.
_SCALE: Final = 1.05
#: No channel counts for more than this many standard deviations.
_BOUND: Final = 4.0
TINY: Final = 1e-12


class Stem(Protocol):
    """What stands before a layer, which can be run on other samples."""

    @property
    def layer(self) -> NormLayer:
        """The layer with its statistics."""

    def seen(self, x: Tensor, changes: Sequence[Change]) -> list[Moments | None]:
        """What the layer sees of the samples, changed in each of these ways."""

    def of_each(self, x: Tensor) -> Floats | None:
        """The means that the layer sees of each sample, (N, C)."""


@dataclass(frozen=True)
class Fitted:
    """A change of the input in words, and how many numbers were fitted."""

    words: str
    change: Change
    free: float


def one_scale(stem: Stem, x: Tensor) -> Fitted | None:
    """The a x + b that brings the layer nearest to its statistics."""
    a, b = 1.0, 0.0
    for _ in range(_ROUNDS):
        found = _round(stem, x, a, b)
        if found is None:
            return None
        scale, shift = found
        a, b = scale * a, scale * b + shift
        if max(scale, 1 / scale) < _SCALE and abs(shift) < (_SCALE - 1) * a * float(x.std()):
            break
    if not (math.isfinite(a) and math.isfinite(b) and a > 0):
        return None
    if max(a, 1 / a) < _SCALE and abs(b) < (_SCALE - 1) * a * (float(x.std()) or 1.0):
        return None
    return Fitted(f"x * {with_sign(a, b)}", _scaled(a, b), 2.0)


def _round(stem: Stem, x: Tensor, a: float, b: float) -> tuple[float, float] | None:
    """The scale and shift of a x + b that would be right, were the layer linear in it."""
    step = float(x.std()) * a or 1.0
    points = ((1.0, 0.0), (1.0, step), (1.0, -step), (0.0, 0.0))
    seen = stem.seen(x, [_scaled(scale * a, scale * b + shift) for scale, shift in points])
    given, up, down, nothing = seen
    if given is None or up is None or down is None or nothing is None:
        return None
    mean, var = stem.layer.statistics or (np.zeros(0), np.zeros(0))
    moved = (up.mean - down.mean) / (2 * step)
    both = (up.var - down.var) / (4 * step)
    curved = (up.var + down.var - 2 * given.var) / (2 * step**2)
    live = (var > TINY) & (given.var > TINY)
    if not live.any():
        return None
    rest, sigma = given.mean - nothing.mean, np.sqrt(np.maximum(var, TINY))
    pull = (moved / sigma)[live]

    def shifts_of(scales: Floats) -> Floats:
        off = ((mean - nothing.mean - scales[:, None] * rest) / sigma)[:, live]
        return np.asarray(off @ pull / max(float(pull @ pull), TINY))

    def left(scales: Floats) -> Floats:
        a, b = scales[:, None], shifts_of(scales)[:, None]
        its = a**2 * given.var + 2 * a * b * both + b**2 * curved
        means = (mean - nothing.mean - a * rest - b * moved) / sigma
        return _squares(means[:, live], 0.5 * np.log(var / np.maximum(its, TINY))[:, live])

    scale = _least(left)
    return scale, float(shifts_of(np.array([scale]))[0])


def _least(left: Callable[[Floats], Floats]) -> float:
    """The scale at which least is left, looked for ever more finely."""
    scales = _SCALES
    ratio = _SCALES[1] / _SCALES[0]
    best = scales[left(scales).argmin()]
    for _ in range(_FINER):
        scales = best * ratio ** (np.arange(-5, 6) / 5)
        best, ratio = scales[left(scales).argmin()], ratio ** (1 / 5)
    return float(best)


def squares(means: Floats, logs: Floats) -> float:
    """The sum over channels of what means and log standard deviations are off by, squared."""
    return float(_squares(means, logs))


def _squares(means: Floats, logs: Floats) -> Floats:
    """The same of several, (..., C)."""
    off = np.clip(means, -_BOUND, _BOUND) ** 2 + np.clip(logs, -_BOUND, _BOUND) ** 2
    return np.asarray(off.sum(axis=-1))


def _scaled(a: float, b: float) -> Change:
    return lambda x: a * x + b


def with_sign(a: float, b: float) -> str:
    """A scale and a shift in words, behind "x * "."""
    return f"{a:.3g} {'+' if b >= 0 else '-'} {abs(b):.3g}"
