"""Means that are moved while the variances are right: by a bias, or by weights that moved on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.measuring.measurement import MeasuredLayer
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.data.scoring import parts, share

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Means are moved alone where the logarithms of the variances are off by less than this, or than
#: 2.5 times what the running average's own noise explains.
_RIGHT: Final = 0.03
_LEAST_SHIFT: Final = 0.15
#: Means of other weights of the same training are off, in parts of themselves, by up to so many
#: times what the log standard deviations are.
_BY_LAG: Final = 6.0


def moved_share(m: MeasuredLayer) -> float:
    """The share of the deviation that means make, where variances are right; else 0."""
    d, log = parts(m, *m.seen)
    assert m.batch_moments is not None
    moments = m.batch_moments
    var = np.maximum(moments.var + (m.layer.eps.value or 0.0), 1e-12)
    noise = float(np.sqrt(np.mean(moments.var_of_squares / (4 * var**2)) * 0.053 / 32))
    if _rms(log) > max(_RIGHT, 2.5 * noise) or _rms(d) < _LEAST_SHIFT:
        return 0.0
    total = float(np.sum(d**2 + log**2)) - m.sampling_noise
    return min(1.0, float(np.sum(d**2)) / total) if total > 0 else 0.0


def shares_of_biases(network: MeasuredNetwork, moved: dict[str, float]) -> dict[str, float]:
    """The shares that the biases explain which stand before the layers now."""
    reruns = network.measurement.reruns
    given = {} if reruns is None else reruns.biases()
    shares = {}
    for m in network.layers:
        if moved.get(m.layer.name) and m.layer.name in given:
            mean, var = m.seen
            shares[m.layer.name] = share(m, mean - given[m.layer.name], var)
    return shares


def lags(m: MeasuredLayer) -> bool:
    """Whether weights that moved on a little explain the means.

    With weights W + D in the place of W, D small in all directions, the mean W E moves by a part
    |D| / |W| of itself, and so does the standard deviation. Where inputs vary little beside their
    mean, as averages over many places do, that is much of a standard deviation in the mean alone.
    A bias is not small beside the mean.
    """
    mean, seen = m.stored[0], m.seen[0]
    return _rms(mean - seen) < _BY_LAG * _rms(parts(m, *m.seen)[1]) * max(_rms(mean), _rms(seen))


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2)))
