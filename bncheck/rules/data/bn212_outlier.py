"""BN212."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.findings import Severity
from bncheck.core.words import percent
from bncheck.measuring.measurement import MeasuredLayer, Seen
from bncheck.rules.data.bn205_preprocessing import ONE_SCALE, best_candidates
from bncheck.rules.data.claim import LEAST, Claim
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.data.scoring import share
from bncheck.rules.rule import Rule, rule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bncheck.measuring.moments import Moments

    Floats = NDArray[np.float64]

#: The running variances are at least this many times what the first layer sees.
_LEAST: Final = 3.0
#: The weight of one batch of the last few, for usual momenta.
_MOST_WEIGHT: Final = 0.35
#: The scale that is run, and those that are predicted from it.
_RUN: Final = 100.0
_SCALES: Final = tuple(float(scale) for scale in np.geomspace(3, 3000, 25))
#: Scales that explain as much but for this: the smallest is named.
_EQUAL: Final = 0.01
#: What is averaged in a batch, at least, and the standard errors by which its mean may be off.
_BATCH: Final = 8
_ERRORS: Final = 2.0
_TINY: Final = 1e-12


@dataclass(frozen=True)
class _Outlier:
    """A batch on another scale with a weight in the average, and the shares that it explains."""

    scale: float
    weight: float
    shares: Mapping[str, float]
    whole: float


@rule("BN212", "outlier-batch", Severity.ERROR, Severity.WARNING)
def outlier(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """One late batch of another scale is in the running averages.

    A corrupt file, a batch that was not normalised, a warm-up batch of 255-valued images: with
    momentum 0.1 one batch k times as large raises the first layer's running variance to
    (1 - w) s^2 + w k^2 s^2, w = 0.1 right after it, and hardly moves its mean. Layers that only see
    normalised values stay right; those on a residual stream go with the first.

    Criterion: the first layer's running variances are, on the median, at least 3 times what it
    sees. The network is then run on inputs 100 times as large, each layer normalising with the
    batch; with means m(k) = m + (m(100) - m) (k - 1) / 99 and standard deviations likewise,

        mean = (1 - w) m + w m(k)        var = (1 - w) v + w v(k)

    with one scale k of 3 to 3000 and one weight w up to 0.35 (from the first layer's variances)
    explain at least 75 % of the whole deviation, and half of each layer's, where the mean of one
    batch may be off by two standard errors of the mean of 8 samples; and no a x + b fits as well
    (BN205), or the inputs are on the usual scale (mean 0, standard deviation 0.5 to 2).

    Fix: recalibrate; find the batch, or clip the inputs.
    """
    factor, reruns = _stem_factor(network.stem), network.measurement.reruns
    if reruns is None or factor < _LEAST or not network.is_off(network.stem):
        return
    simple = [c for c in best_candidates(network).values() if c.free <= ONE_SCALE]
    if simple and not network.usual_scale:
        return  # as likely the data are on another scale; a fit of more numbers competes with it
    large = reruns.changed(lambda x: x * _RUN if x.is_floating_point() else x)
    found = _fitted(network, large)
    if found is None or found.whole < LEAST:
        return
    yield Claim(
        self,
        {name: max(explained, LEAST) for name, explained in found.shares.items()},
        f"the running variances are {factor:.3g} times what the first layer sees, as one batch "
        f"{found.scale:.2g} times as large leaves them that has {percent(found.weight)} of the "
        "average",
        advice="find the batch that was on another scale",
        free=2.0 / len(network.layers),
        evidence={"factor": factor, "scale": found.scale, "weight": found.weight},
    )


def _stem_factor(stem: MeasuredLayer) -> float:
    var, seen = stem.stored[1], stem.seen[1]
    live = (var > 0) & (seen > 0)
    return float(np.exp(np.median(np.log(var[live] / seen[live])))) if live.any() else 1.0


def _fitted(network: MeasuredNetwork, large: Seen) -> _Outlier | None:
    """The scale and the weight that explain most of the whole deviation."""
    if network.stem.layer.name not in large:
        return None
    free = 2.0 / len(network.layers)
    found = []
    for scale in _SCALES:
        weight = _weight(network.stem, large, scale)
        if not 0 < weight <= _MOST_WEIGHT:
            continue
        shares = {}
        for m in network.layers:
            if m.layer.name in large:
                (mean, var), (its_mean, its_var) = m.seen, _at(m, large, scale)
                mixed = mean + weight * (its_mean - mean)
                reach = weight * _ERRORS * _of_a_batch(large[m.layer.name], its_var)
                nearest = np.clip(m.stored[0], mixed - reach, mixed + reach)
                shares[m.layer.name] = share(m, nearest, var + weight * (its_var - var), free)
        found.append(_Outlier(scale, weight, shares, network.whole_share(shares)))
    best = max((one.whole for one in found), default=0.0)
    return next((one for one in found if one.whole >= best - _EQUAL), None)


def _of_a_batch(large: Moments, var: Floats) -> Floats:
    """The standard errors of one small batch's means, where the layer has these variances."""
    of_samples = large.var_of_means / np.maximum(large.var, _TINY)
    return np.asarray(np.sqrt(np.maximum(var, 0) * of_samples / _BATCH))


def _weight(stem: MeasuredLayer, large: Seen, scale: float) -> float:
    """The weight that such a batch must have for the first layer's variances, on the median."""
    (_, var), (_, seen), (_, its) = stem.stored, stem.seen, _at(stem, large, scale)
    live = its > seen
    return float(np.median((var - seen)[live] / (its - seen)[live])) if live.any() else 0.0


def _at(m: MeasuredLayer, large: Seen, scale: float) -> tuple[Floats, Floats]:
    """What a layer sees of a batch on this scale: means and standard deviations, linear in it."""
    mean, var = m.seen
    moments = large[m.layer.name]
    along = (scale - 1) / (_RUN - 1)
    sd, its = np.sqrt(np.maximum(var, 0)), np.sqrt(np.maximum(moments.unbiased_var, 0))
    return mean + along * (moments.mean - mean), (sd + along * (its - sd)) ** 2
