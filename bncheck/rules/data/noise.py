"""Is it chance? The noise of a running average against what the layers deviate by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.measuring.deviation import averaging_noise

if TYPE_CHECKING:
    from bncheck.rules.data.measured_network import MeasuredNetwork

#: W2^2 of a layer is scattered about its expectation; beyond this factor it is not noise.
_SCATTER: Final = 2.5
#: Where momentum does not say: noise hits all layers alike, in units of what an image has.
_UNIFORM: Final = 4.2
_UNIFORM_LAYERS: Final = 8
#: With fewer layers they must be more alike, and wilder from channel to channel.
_FEW_UNIFORM: Final = 3.5
_FEW_LAYERS: Final = 3
_WILD: Final = 0.35
#: kappa / B of momentum 0.9 and batches of 2.
_LARGEST: Final = 0.45
#: Chance has no favourite sign: ln(running_var / var) is scattered by at least this much of its
#: mean. A unit or a factor is not.
_SIGN: Final = 0.7


def is_noise(network: MeasuredNetwork) -> bool:
    """Whether chance explains what the layers deviate by in the batch cascade."""
    implied = np.array([d.implied_noise for d in network.batch])
    implied = implied[np.isfinite(implied)]
    if not implied.size or len(implied) < len(network.batch) or _one_sign(network):
        return False
    if float(implied.max()) <= _expected(network) * _SCATTER:
        return True
    if all(m.layer.momentum.value is None and m.layer.batches for m in network.layers):
        return False  # a cumulative average has a long memory, of weights that are gone
    if implied.max() > _LARGEST:
        return False
    largest, middle = float(implied.max()), float(np.median(implied))
    if len(implied) >= _UNIFORM_LAYERS:
        return largest <= _UNIFORM * middle
    scatter = float(np.median([d.log_variance_ratio.std() for d in network.batch]))
    return len(implied) >= _FEW_LAYERS and largest <= _FEW_UNIFORM * middle and scatter >= _WILD


def is_told_noise(network: MeasuredNetwork) -> bool:
    """Whether it is what the momentum and the batch size that the user gave make of it."""
    known = network.culprit.layer.momentum.value is not None
    told = known and network.measurement.train_batch_size is not None
    return told and is_noise(network)


def _one_sign(network: MeasuredNetwork) -> bool:
    """Whether every channel of the layers that deviate errs the same way."""
    off = [m.batch for m in network.layers if network.is_off(m) and m.batch is not None]
    return bool(off) and all(
        float(d.log_variance_ratio.std()) < _SIGN * abs(d.signed) and float(d.mean_share) < 0.5
        for d in off
    )


def _expected(network: MeasuredNetwork) -> float:
    """kappa / B, with batches of 4 where the batch size is not known."""
    kappa = max(averaging_noise(m.layer.momentum.value, m.layer.counter) for m in network.layers)
    return kappa / (network.measurement.train_batch_size or 4)
