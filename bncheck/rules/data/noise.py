"""Is it chance? The noise of a running average against what the layers deviate by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.measuring.deviation import averaging_noise
from bncheck.rules.data.claim import LEAST
from bncheck.rules.data.scoring import by_chance, parts

if TYPE_CHECKING:
    from bncheck.rules.data.measured_network import MeasuredNetwork

#: W2^2 of a layer is scattered about its expectation; beyond this factor it is no noise.
_SCATTER: Final = 2.5
#: Nothing is normalised before the first layer, so chance moves its means as much as its variances,
#: in units of noise. Means of one independent channel (brightness) are scattered like chi^2 of one
#: degree: below 1/64 in 10 %, above 8 in 0.5 % of cases.
_FIRST_LEAST: Final = 64.0
_FIRST_MOST: Final = 8.0
_FEW_LAYERS: Final = 3
#: kappa / B of momentum 0.9 and batches of 2.
_LARGEST: Final = 0.6
#: Running variances that are too large in most channels of most layers are not chance; too small
#: ones may be: the variance of a few images is, on the median, too small.
_SIGN: Final = 0.7
#: ... but not in nearly all: of noise the logarithms have a mean of about minus their mean square.
_SIGN_LEAST: Final = -1.0


def is_noise(network: MeasuredNetwork) -> bool:
    """Whether chance explains what the layers deviate by in the batch cascade."""
    if not network.off:
        return False
    by_variances = np.array([found.by_variances for found in network.implied])
    signs = np.array([found.sign for found in network.implied])
    sign = float(np.median(signs))
    if sign > _SIGN or network.of_other_weights:
        return False
    as_expected = float(by_variances.max()) <= _expected(network) * _SCATTER
    told = network.measurement.train_batch_size is not None
    if as_expected and told:
        return True
    if sign < _SIGN_LEAST or not _first_alike(network):
        return False
    if as_expected:
        return True
    if all(m.layer.momentum.value is None and m.layer.batches for m in network.layers):
        return False  # a cumulative average has a long memory, of weights that are gone
    alike = float(by_variances.max()) <= _LARGEST and noise_share(network) >= LEAST
    return len(by_variances) >= _FEW_LAYERS and alike


def _first_alike(network: MeasuredNetwork) -> bool:
    """Whether means are as noisy as variances in the first layers, where these deviate."""
    return all(
        first.by_variances / _FIRST_LEAST <= first.by_means <= first.by_variances * _FIRST_MOST
        for m, first in zip(network.layers, network.implied, strict=True)
        if network.is_entry(m) and network.is_off(m)
    )


def noise_share(network: MeasuredNetwork) -> float:
    """The share of the logarithms' squares that one kappa / B for all layers predicts.

    With L_l = sum (ln sigma_r - ln sigma)^2 over a layer's channels, which noise makes about k U_l,
    U_l = sum Var q / 4 sigma^4, and k = sum L / sum U: sum_l min(L_l, k U_l) / sum_l L_l, where
    no channel counts for more than nine times what k makes of it.
    """
    found, unit = [], []
    for m in network.layers:
        assert m.batch_moments is not None
        var = m.batch_moments.var + (m.layer.eps.value or 0.0) + 1e-12
        found.append(parts(m, *m.seen)[1] ** 2)
        unit.append(m.batch_moments.var_of_squares / (4 * var**2))
    total, units = (sum(float(layer.sum()) for layer in each) for each in (found, unit))
    if not (total > 0 and units > 0):
        return 0.0
    k = total / units
    return sum(by_chance(seen, k * u) for seen, u in zip(found, unit, strict=True)) / total


def is_told_noise(network: MeasuredNetwork) -> bool:
    """Whether it is what the momentum and the batch size that the user gave make of it."""
    known = network.culprit.layer.momentum.value is not None
    told = known and network.measurement.train_batch_size is not None
    return told and is_noise(network)


def _expected(network: MeasuredNetwork) -> float:
    """kappa / B, with batches of 4 where the batch size is not known."""
    kappa = max(averaging_noise(m.layer.momentum.value, m.layer.counter) for m in network.layers)
    return kappa / (network.measurement.train_batch_size or 4)
