"""Statistics that still hold, wholly or in part, what a new layer starts with: mean 0, variance 1.

The rules are those of the file alone (BN101, BN105, BN118); data prove them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.words import percent
from bncheck.measuring.measurement import MeasuredLayer
from bncheck.rules.data.claim import Claim
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.data.scoring import share
from bncheck.rules.static.bn101_never_updated import never_updated
from bncheck.rules.static.bn105_under_warmed import under_warmed
from bncheck.rules.static.bn118_half_loaded import half_loaded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Means of this many variances (squared) can be seen to be drawn to 0.
_ANY_MEANS: Final = 0.05
#: Share of the initial values from which an average is called under-warmed.
_LEAST_SHARE: Final = 0.05


def initial_claims(network: MeasuredNetwork) -> Iterator[Claim]:
    """BN101, BN118 and BN105, each with the layers whose deviation it explains."""
    untouched = network.untouched
    if untouched:
        yield Claim(
            never_updated,
            {m.layer.name: 1.0 for m in untouched},
            "running mean is exactly 0 and running variance exactly 1, and what the layer sees is "
            "not: the statistics were never updated, or reset",
        )
    yield from _half(network)
    yield from _under_warmed(network)


def _half(network: MeasuredNetwork) -> Iterator[Claim]:
    for what, place, value in (("mean", 0, 0.0), ("variance", 1, 1.0)):
        found = {}
        for m in network.layers:
            kept = m.stored[place]
            if (kept == value).all() and not (m.stored[1 - place] == 1.0 - value).all():
                mean, var = m.seen
                predicted = (kept, var) if place == 0 else (mean, kept)
                found[m.layer.name] = share(m, *predicted)
        if found:
            yield Claim(
                half_loaded,
                found,
                f"running {what} is exactly {value:g} in every channel beside trained "
                f"{'variances' if place == 0 else 'means'}: one half was never loaded",
            )


def _under_warmed(network: MeasuredNetwork) -> Iterator[Claim]:
    """running = (1 - w0) seen + w0 (0, 1), with one w0 for all layers."""
    w0 = initial_share_seen(network.layers)
    if not _LEAST_SHARE <= w0 < 1 or not _means_agree(network.layers, w0):
        return
    shares = {}
    for m in network.layers:
        mean, var = m.seen
        shares[m.layer.name] = share(m, (1 - w0) * mean, (1 - w0) * var + w0, 1)
    yield Claim(
        under_warmed,
        shares,
        f"{percent(w0, 0)} of every running average is still its initial 0 and 1, which explains "
        "what the layers deviate by: they saw too few batches for their momentum",
        advice="train with more batches or a larger momentum",
        free=1,
        evidence={"initial_share": w0},
    )


def _means_agree(layers: Sequence[MeasuredLayer], w0: float) -> bool:
    """Whether means are drawn to 0 as variances are to 1: averaging weights does not move them.

    By the slope of stored means on seen ones, 1 - w0; the median over layers whose means are any.
    """
    found = []
    for m in layers:
        mean, (seen, var) = m.stored[0], m.seen
        sigma2 = np.maximum(var, 0) + (m.layer.eps.value or 0.0) + 1e-12
        if float(np.mean(seen**2 / sigma2)) >= _ANY_MEANS:
            found.append(1 - float(np.sum(mean * seen / sigma2) / np.sum(seen**2 / sigma2)))
    return not found or abs(float(np.median(found)) - w0) <= w0 / 2


def initial_share_seen(layers: Sequence[MeasuredLayer]) -> float:
    """The w0 for which running = (1 - w0) seen + w0 initial fits best, 0 where none does.

    In the layers' own coordinates: running_mean - mean = -w0 mean and running_var - var =
    w0 (1 - var), least squares over all channels, then the median over layers: a fault that
    grows with depth fits no single w0.
    """
    shares = []
    for m in layers:
        mean, var = m.stored
        seen_mean, seen_var = m.seen
        scale = np.sqrt(var + (m.layer.eps.value or 0.0) + 1e-12)
        pull = np.concatenate([-seen_mean / scale, (1 - seen_var) / (2 * scale**2)])
        off = np.concatenate([(mean - seen_mean) / scale, (var - seen_var) / (2 * scale**2)])
        denominator = float(pull @ pull)
        if denominator > 0:
            shares.append(float(pull @ off) / denominator)
    if not shares:
        return 0.0
    middle = float(np.median(shares))
    spread = float(np.median(np.abs(np.array(shares) - middle)))
    return middle if 0 < middle < 1 and spread <= 0.15 * middle + 0.02 else 0.0
