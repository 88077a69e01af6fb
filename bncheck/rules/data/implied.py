"""What a layer implies of its running average: chance, or statistics of other weights?

A running average of momentum m over batches of B images is right on average and carries kappa / B
of the variance that the statistics of one image have, kappa = m / (2 - m). So a layer that deviates
by chance alone implies one and the same kappa / B in every layer, by its variances:

    k_var = mean (ln sigma_r - ln sigma)^2 / mean (Var q_i / 4 sigma^4) - 1 / N

The same from its means,

    k_mean = mean ((mu_r - mu) / sigma)^2 / mean (Var m_i / sigma^2) - 1 / N

is *smaller* behind the first layer: in training each batch is normalised by itself, so the mean
behind it is W E + b of inputs whose mean is exactly beta, whatever the batch. Only other weights
move such a mean. k_mean > k_var behind the first layer says weights, k_mean < k_var says batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.rules.data.scoring import parts

if TYPE_CHECKING:
    from bncheck.measuring.measurement import MeasuredLayer

_TINY: Final = 1e-12


@dataclass(frozen=True)
class Implied:
    """kappa / B that would explain a layer, from its means and its variances.

    `sign` is the mean of ln(sigma_r / sigma) over channels in its standard deviations.
    """

    by_means: float
    by_variances: float
    sign: float


def implied(m: MeasuredLayer) -> Implied:
    """What a layer would imply, were it noise."""
    assert m.batch_moments is not None
    moments = m.batch_moments
    seen = moments.var + (m.layer.eps.value or 0.0) + _TINY
    d, log = parts(m, *m.seen)
    sample = 1 / max(moments.effective_images, 1.0)
    means = float(np.mean(moments.var_of_means / seen))
    variances = float(np.mean(moments.var_of_squares / (4 * seen**2)))
    return Implied(
        max(0.0, float(np.mean(d**2)) / max(means, _TINY) - sample),
        max(0.0, float(np.mean(log**2)) / max(variances, _TINY) - sample),
        float(np.mean(log)) / max(float(np.std(log)), _TINY),
    )
