"""BN211."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.findings import Severity
from bncheck.measuring.measurement import MeasuredLayer
from bncheck.rules.data.claim import LEAST, Claim
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.data.scoring import error, measured, share, stored
from bncheck.rules.rule import Rule, rule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: RMS distance of the sorted values, and how much farther the unsorted ones are apart.
_SORTED: Final = 0.13
_TIMES: Final = 3.0
#: Fewer channels have too few orders to be told from chance.
_CHANNELS: Final = 8


@rule("BN211", "exchanged-statistics", Severity.ERROR, Severity.WARNING)
def exchanged(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """A layer holds another layer's statistics, or its own in another order of channels.

    Names that shift by one, a conversion that sorts keys, channels permuted in weights but not in
    buffers: every number is a right one, in the wrong place.

    Criterion: what another layer of as many channels sees explains at least 75 % of the layer's
    deviation, or the sorted means and the sorted variances agree with the sorted measured ones (RMS
    distance up to 0.13) while channel by channel they are at least three times as far apart.

    Fix: put them in their places; recalibrating measures them anew.
    """
    off = [m for m in network.layers if network.is_off(m)]
    for m in off:
        for other in network.layers:
            if other is m or other.layer.channels != m.layer.channels:
                continue
            explained = share(m, *measured(other))
            swapped = m is not network.stem or network.is_off(other)
            if explained >= LEAST and swapped:
                yield Claim(
                    self,
                    {m.layer.name: explained},
                    f"holds the statistics that belong to {other.layer.name}",
                    advice="or put the tensors in their places",
                    evidence={"belongs_to": other.layer.name},
                )
    for m in off:
        explained = _permuted(m)
        if explained >= LEAST:
            yield Claim(
                self,
                {m.layer.name: explained},
                "holds the right values in another order of channels",
                advice="or permute them as the weights were",
                free=m.layer.channels / 4,
            )


def _permuted(m: MeasuredLayer) -> float:
    """The share explained by an order of channels; sorted values have the least distance."""
    if m.layer.channels < _CHANNELS:
        return 0.0
    plain = error(m, *measured(m))
    eps = (m.layer.eps.value or 0.0) + 1e-12
    (mean, var), (seen_mean, seen_var) = stored(m), measured(m)
    unit = float(np.sqrt(np.median(seen_var) + eps))
    apart = (np.sort(mean) - np.sort(seen_mean)) / unit
    logs = 0.5 * (np.sort(np.log(var + eps)) - np.sort(np.log(np.maximum(seen_var, 0) + eps)))
    left = float(np.sqrt(np.mean(apart**2 + logs**2)))
    whole = float(np.sqrt(np.mean(plain)))
    if left > _SORTED or whole < _TIMES * left or whole < 0.3:
        return 0.0
    return 1.0 - (left / whole) ** 2
