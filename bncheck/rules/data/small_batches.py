"""What a running average over small batches holds: another mean than the data's, and noise.

A batch of B samples varies less than the data do: what differs between samples is in its mean, and
each layer is fed what was normalised by the batch. So even the average over all such batches is not
what the data have, and the running average of momentum m scatters about it by kappa = m / (2 - m)
of what single batches scatter. Both are measured, by running shuffled samples in batches of B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.measuring.deviation import averaging_noise
from bncheck.measuring.measurement import MeasuredLayer, Scatter
from bncheck.rules.data.scoring import error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bncheck.rules.data.measured_network import MeasuredNetwork

#: Sizes of batches that are tried where none is told, and up to which one is small.
SIZES: Final = (2, 4, 8)
_TINY: Final = 1e-12


@dataclass(frozen=True)
class SmallBatches:
    """The size of the batches, and the share of each layer's deviation that they explain."""

    size: int
    shares: Mapping[str, float]
    whole: float
    free: float


def small_batches(network: MeasuredNetwork) -> SmallBatches | None:
    """The size that explains most of the whole deviation; that of the training, if it is told."""
    reruns, told = network.measurement.reruns, network.measurement.train_batch_size
    if reruns is None or (told is not None and not 1 < told <= max(SIZES)):
        return None
    found = []
    for size in SIZES if told is None else (told,):
        seen = reruns.in_batches_of(size)
        shares = {
            m.layer.name: _explained(m, seen[m.layer.name])
            for m in network.layers
            if m.layer.name in seen
        }
        free = 0.0 if told is not None else 1.0
        found.append(SmallBatches(size, shares, network.whole_share(shares), free))
    return max(found, key=lambda one: one.whole)


def _explained(m: MeasuredLayer, seen: Scatter) -> float:
    """The share of the layer's squared deviation that these batches leave, chance included."""
    eps = (m.layer.eps.value or 0.0) + _TINY
    total = float(error(m, *m.seen).sum()) - m.sampling_noise
    if total <= 0:
        return 0.0
    left = float(error(m, seen.mean, seen.var).sum())
    kappa = averaging_noise(m.layer.momentum.value, m.layer.counter) + 1 / seen.batches
    sigma2 = np.maximum(m.seen[1], 0) + eps
    each = seen.of_means / sigma2 + seen.of_variances / (4 * (seen.var + eps) ** 2)
    return 1.0 - max(0.0, left - kappa * float(each.sum())) / total
