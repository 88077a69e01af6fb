"""What a running average over small batches holds: another mean than the data's, and noise.

A batch of B samples varies less than the data do: what differs between samples is in its mean, and
each layer is fed what was normalised by the batch. So even the average over all such batches is not
what the data have, and the running average of momentum m scatters about it by kappa = m / (2 - m)
of what single batches scatter. Both are measured, by running shuffled samples in batches of B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.measuring.deviation import averaging_noise
from bncheck.measuring.measurement import MeasuredLayer, Scatter
from bncheck.rules.data.measured_network import MeasuredNetwork, own_w2
from bncheck.rules.data.scoring import by_chance, error, parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Sizes of batches that are tried where none is told, and up to which one is small.
SIZES: Final = (2, 4, 8)
#: So many batches of a size tell whether more are worth their run.
_SCREENED: Final = 32
_NEARLY: Final = 0.5
#: The size of the batches that show how means and variances scatter.
_FEW: Final = 4
#: Squares of a layer are scattered about their expectation; beyond this factor it is no noise.
_SCATTERED: Final = 2.5
_RARE: Final = 3.0
_HALVED: Final = 0.35
_TINY: Final = 1e-12


@dataclass(frozen=True)
class SmallBatches:
    """The size of the batches, and the share of each layer's deviation that they explain."""

    size: int
    shares: Mapping[str, float]
    whole: float
    free: float


def small_batches(network: MeasuredNetwork) -> SmallBatches | None:
    """The size that explains most of the whole deviation; that of the training, if it is told.

    A few batches of each size tell which is worth more.
    """
    reruns, told = network.measurement.reruns, network.measurement.train_batch_size
    if reruns is None or (told is not None and not 1 < told <= max(SIZES)):
        return None
    if network.of_other_weights:  # batches hardly move these means
        return None
    sizes = SIZES if told is None else (told,)
    if any(_is_beyond(m, sizes[0]) for m in network.layers if network.is_entry(m)):
        return None
    few = [_of_size(network, size, reruns.in_batches_of(size, _SCREENED)) for size in sizes]
    best = max(few, key=lambda one: one.whole)
    if best.whole < _NEARLY:
        return None
    return _of_size(network, best.size, reruns.in_batches_of(best.size))


def _is_beyond(m: MeasuredLayer, size: int) -> bool:
    """Whether a layer before which nothing was normalised is too far off for that.

    Its means are scattered by sqrt(kappa / B) at most, three times of which are rare, and a batch
    of two leaves out half of what samples' means add to a variance: ln(1/2) / 2 of its logarithm.
    """
    kappa = averaging_noise(m.layer.momentum.value, m.layer.counter)
    return m.batch is not None and m.batch.w2 > _HALVED + _RARE * math.sqrt(kappa / size)


def _of_size(network: MeasuredNetwork, size: int, seen: Mapping[str, Scatter]) -> SmallBatches:
    shares = {
        m.layer.name: _explained(m, seen[m.layer.name])
        for m in network.layers
        if m.layer.name in seen
    }
    free = 0.0 if network.measurement.train_batch_size is not None else 1.0
    whole = min(network.whole_share(shares), _of_all(network, shares))
    return SmallBatches(size, shares, whole, free)


def _of_all(network: MeasuredNetwork, shares: Mapping[str, float]) -> float:
    """The share of all layers' squares: one that agrees although batches would move it refutes."""
    weights = {m.layer.name: min(own_w2(m) ** 2, 1.0) for m in network.layers}
    explained = sum(weight * shares.get(name, 0.0) for name, weight in weights.items())
    return explained / max(sum(weights.values()), _TINY)


def measured_noise_share(network: MeasuredNetwork) -> float:
    """The share of all squared deviations that one kappa / B makes of means and variances alike.

    How much either scatters in each layer is what shuffled batches show: behind the first layer
    batches hardly move a mean. kappa / B is that of the variances. 1 where nothing can be run.
    """
    reruns = network.measurement.reruns
    seen = {} if reruns is None else reruns.in_batches_of(_FEW)
    found = [
        _squares(m, seen[m.layer.name])
        for m in network.layers
        if network.is_off(m) and m.layer.name in seen
    ]
    if not found:
        return 1.0
    of_logs = sum(float(of_log.sum()) for *_, of_log in found)
    k = sum(float(log.sum()) for _, log, *_ in found) / max(of_logs, _TINY)
    whole = sum(float(mean.sum() + log.sum()) for mean, log, _, _ in found)
    explained = sum(
        by_chance(mean, k * of_mean, _SCATTERED) + by_chance(log, k * of_log, _SCATTERED)
        for mean, log, of_mean, of_log in found
    )
    return explained / max(whole, _TINY)


def _squares(m: MeasuredLayer, seen: Scatter) -> tuple[Floats, Floats, Floats, Floats]:
    """Squared deviations of means and of log standard deviations; how these scatter by batch."""
    mean, log = parts(m, *m.seen)
    return mean**2, log**2, *_scatter(m, seen)


def _scatter(m: MeasuredLayer, seen: Scatter) -> tuple[Floats, Floats]:
    """What one batch's means, and log standard deviations, are off their average by, squared."""
    eps = (m.layer.eps.value or 0.0) + _TINY
    of_means = seen.of_means / (np.maximum(m.seen[1], 0) + eps)
    return of_means, seen.of_variances / (4 * (seen.var + eps) ** 2)


def _explained(m: MeasuredLayer, seen: Scatter) -> float:
    """The share of the layer's squared deviation that these batches leave, chance included.

    Chance that is not there counts against them as does what is left: it is a prediction, too. A
    sum of C squares is scattered by sqrt(2 / C) of itself, as chi^2 is.
    """
    total = float(error(m, *m.seen).sum()) - m.sampling_noise
    if total <= 0:
        return 0.0
    mean, log = parts(m, seen.mean, seen.var)
    kappa = averaging_noise(m.layer.momentum.value, m.layer.counter) + 1 / seen.batches
    of_means, of_variances = (float(each.sum()) for each in _scatter(m, seen))
    scattered = float(np.sqrt(2 / m.layer.channels))
    left = 0.0
    for found, its in (((mean**2).sum(), of_means), ((log**2).sum(), of_variances)):
        left += max(0.0, abs(float(found) - kappa * its) - scattered * kappa * its)
    return 1.0 - left / total
