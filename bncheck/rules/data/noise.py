"""Is it chance? The noise of a running average against what the layers deviate by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.measuring.deviation import averaging_noise

if TYPE_CHECKING:
    from bncheck.rules.data.measured_network import MeasuredNetwork

#: W2^2 of a layer is scattered about its expectation; beyond this factor it is no noise.
_SCATTER: Final = 2.5
#: Where momentum does not say: noise hits all layers alike, in units of what an image has.
_UNIFORM: Final = 4.2
_FEW_LAYERS: Final = 3
#: kappa / B of momentum 0.9 and batches of 2.
_LARGEST: Final = 0.6
#: Running variances that are too large in most channels of most layers are not chance; too small
#: ones may be: the variance of a few images is, on the median, too small.
_SIGN: Final = 0.7


def is_noise(network: MeasuredNetwork) -> bool:
    """Whether chance explains what the layers deviate by in the batch cascade."""
    if not network.off:
        return False
    by_variances = np.array([found.by_variances for found in network.implied])
    signs = np.array([found.sign for found in network.implied])
    if float(np.median(signs)) > _SIGN or network.of_other_weights:
        return False
    if float(by_variances.max()) <= _expected(network) * _SCATTER:
        return True
    if all(m.layer.momentum.value is None and m.layer.batches for m in network.layers):
        return False  # a cumulative average has a long memory, of weights that are gone
    largest, middle = float(by_variances.max()), float(np.median(by_variances))
    return len(by_variances) >= _FEW_LAYERS and largest <= min(_LARGEST, _UNIFORM * middle)


def is_told_noise(network: MeasuredNetwork) -> bool:
    """Whether it is what the momentum and the batch size that the user gave make of it."""
    known = network.culprit.layer.momentum.value is not None
    told = known and network.measurement.train_batch_size is not None
    return told and is_noise(network)


def _expected(network: MeasuredNetwork) -> float:
    """kappa / B, with batches of 4 where the batch size is not known."""
    kappa = max(averaging_noise(m.layer.momentum.value, m.layer.counter) for m in network.layers)
    return kappa / (network.measurement.train_batch_size or 4)
