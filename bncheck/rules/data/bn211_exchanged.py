"""BN211."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.findings import Severity
from bncheck.measuring.measurement import MeasuredLayer
from bncheck.measuring.results import Direction
from bncheck.rules.data.bn202_stale import resemblance
from bncheck.rules.data.claim import LEAST, Claim, Fault
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.data.scoring import error, share
from bncheck.rules.rule import Rule, rule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: RMS distance of the sorted values, and how much farther the unsorted ones are apart.
_SORTED: Final = 0.13
_TIMES: Final = 3.0
#: Of layers on the same scale so many on either side are tried: the cost is that of sorting.
_NEAREST: Final = 8
#: Channels in another order are correlated by less, in means or in log variances.
_ALIKE: Final = 0.5
#: Fewer channels have too few orders to be told from chance.
_CHANNELS: Final = 8


@rule("BN211", "exchanged-statistics", Severity.ERROR, Severity.WARNING)
def exchanged(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """A layer holds another layer's statistics, or its own in another order of channels.

    Names that shift by one, a conversion that sorts keys, channels permuted in weights but not in
    buffers: every number is a right one, in the wrong place.

    Criterion: what another layer of as many channels sees explains at least 75 % of the layer's
    deviation, or the sorted means and the sorted variances agree with the sorted measured ones (RMS
    distance up to 0.13) while channel by channel they are at least three times as far apart, and
    the means or the logarithms of the variances are correlated by less than 0.5: moved a little,
    the means of many channels have much the same sorted values, too.

    Fix: put them in their places; recalibrating measures them anew.
    """
    off = [m for m in network.layers if network.is_off(m)]
    known = _Scales(network.layers)
    for m in off:
        for other in known.near(m):
            explained = share(m, *other.seen)
            swapped = not network.is_entry(m) or network.is_off(other)
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
            itself = network.reads_itself(m) and network.direction is not Direction.WORSE
            either = ", or the data have another order of features" if itself else ""
            yield Claim(
                self,
                {m.layer.name: explained},
                f"holds the right values in another order of channels{either}",
                advice="or permute them as the weights were",
                fault=Fault.EITHER if itself else Fault.STATISTICS,
                free=m.layer.channels / 4,
            )


class _Scales:
    """The layers by channels and by the mean of their log standard deviations, to find near ones.

    If what another layer sees explains three quarters of E, the means of both logarithms differ by
    at most sqrt(E / 4 C) (the mean of differences is at most their RMS). Of those, the nearest.
    """

    def __init__(self, layers: Sequence[MeasuredLayer]) -> None:
        self._by_channels: dict[int, list[tuple[float, int, MeasuredLayer]]] = {}
        for place, m in enumerate(layers):
            entry = (_mean_log(m, m.seen[1]), place, m)
            self._by_channels.setdefault(m.layer.channels, []).append(entry)
        for entries in self._by_channels.values():
            entries.sort(key=lambda entry: entry[:2])

    def near(self, m: MeasuredLayer) -> list[MeasuredLayer]:
        """The other layers that may explain this one's statistics, in the order of the network."""
        entries = self._by_channels[m.layer.channels]
        own = _mean_log(m, m.stored[1])
        reach = float(np.sqrt((1 - LEAST) * np.mean(error(m, *m.seen))))
        first = bisect_left(entries, own - reach, key=lambda entry: entry[0])
        last = bisect_right(entries, own + reach, key=lambda entry: entry[0])
        middle = bisect_left(entries, own, key=lambda entry: entry[0])
        first, last = max(first, middle - _NEAREST), min(last, middle + _NEAREST)
        found = sorted(entries[first:last], key=lambda entry: entry[1])
        return [other for _, _, other in found if other is not m]


def _mean_log(m: MeasuredLayer, var: Floats) -> float:
    eps = (m.layer.eps.value or 0.0) + 1e-12
    return float(np.mean(0.5 * np.log(np.maximum(var, 0) + eps)))


def _permuted(m: MeasuredLayer) -> float:
    """The share explained by an order of channels; sorted values have the least distance."""
    if m.layer.channels < _CHANNELS:
        return 0.0
    plain = error(m, *m.seen)
    eps = (m.layer.eps.value or 0.0) + 1e-12
    (mean, var), (seen_mean, seen_var) = m.stored, m.seen
    unit = float(np.sqrt(np.median(seen_var) + eps))
    apart = (np.sort(mean) - np.sort(seen_mean)) / unit
    logs = 0.5 * (np.sort(np.log(var + eps)) - np.sort(np.log(np.maximum(seen_var, 0) + eps)))
    left = float(np.sqrt(np.mean(apart**2 + logs**2)))
    whole = float(np.sqrt(np.mean(plain)))
    if left > _SORTED or whole < _TIMES * left or whole < 0.3 or resemblance(m) >= _ALIKE:
        return 0.0
    return 1.0 - (left / whole) ** 2
