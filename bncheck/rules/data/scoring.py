"""How much of a layer's deviation an explanation predicts.

An explanation says what the stored statistics would be, were it true. In the layer's own
coordinates a channel's stored (m, v) is from predicted (m', v') by

    e^2 = ((m - m') / sigma)^2 + (ln sigma_stored - ln sigma_predicted)^2

with sigma the measured standard deviation, eps in every variance. The logarithm makes a variance
four times too large and one four times too small equally wrong. With E the sum over channels,

    share = 1 - (E(predicted) - noise) / (E(measured) - noise) * n / (n - p)

like an adjusted R^2: n = 2 C numbers, p of them free; noise is what the reference sample explains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.measuring.measurement import MeasuredLayer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Chance makes of one channel's square at most so many times what it makes of it on average.
_RARE: Final = 9.0
#: ... and of half of the channels more than so little of it (chi^2 of one degree: 14 % are below).
_TYPICAL: Final = 0.03
#: No channel counts for more than this many standard deviations, so that none decides alone.
BOUND: Final = 4.0
_TINY: Final = 1e-12


def error(layer: MeasuredLayer, mean: Floats, var: Floats) -> Floats:
    """e^2 of every channel against predicted statistics, (C,)."""
    d, log = parts(layer, mean, var)
    return np.asarray(d**2 + log**2)


def parts(layer: MeasuredLayer, mean: Floats, var: Floats) -> tuple[Floats, Floats]:
    """The two halves of e: of the mean in standard deviations, of the log standard deviation."""
    eps = (layer.layer.eps.value or 0.0) + _TINY
    running_mean, running_var = layer.stored
    seen = layer.seen[1]
    with np.errstate(all="ignore"):
        d = (running_mean - mean) / np.sqrt(np.maximum(seen, 0) + eps)
        log = 0.5 * np.log((running_var + eps) / (np.maximum(var, 0) + eps))
    return _bounded(d), _bounded(log)


def share(layer: MeasuredLayer, mean: Floats, var: Floats, free: float = 0.0) -> float:
    """The share of the layer's deviation that predicted statistics explain; at most 1."""
    total = float(error(layer, *layer.seen).sum())
    left = float(error(layer, mean, var).sum())
    noise = layer.sampling_noise
    numbers = 2 * layer.layer.channels
    if total <= noise or free >= numbers:
        return 0.0
    left = max(0.0, left - noise) * numbers / (numbers - free)
    return 1.0 - left / (total - noise)


def residual(layer: MeasuredLayer, mean: Floats, var: Floats) -> float:
    """RMS of e over the channels, with what the reference sample explains taken off."""
    left = float(error(layer, mean, var).sum()) - layer.sampling_noise
    return float(np.sqrt(max(left, 0.0) / layer.layer.channels))


def by_chance(squares: Floats, expected: Floats, most: float = 1.0) -> float:
    """What chance explains of a layer's squares, (C,) each: of all, `most` times what it expects.

    And of each channel three standard deviations: a channel that varies much, as that of a feature
    with heavy tails, cannot explain what another one is off by. Nothing where half of the channels
    are hardly off beside the others: chance spares none.
    """
    own = float(squares.sum()) / max(float(expected.sum()), _TINY)
    if float(np.median(squares)) < _TYPICAL * own * float(np.median(expected)):
        return 0.0
    each = np.minimum(squares, _RARE * expected)
    return min(float(each.sum()), most * float(expected.sum()))


def _bounded(values: Floats) -> Floats:
    return np.fmax(np.fmin(values, BOUND), -BOUND)  # of NaN and a number, both take the number
