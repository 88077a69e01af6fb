"""BN204."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.findings import Severity
from bncheck.measuring.measurement import MeasuredLayer
from bncheck.rules.data.claim import LEAST, Claim
from bncheck.rules.data.class_mixture import Mixture, weighted
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.data.scoring import measured, share, stored
from bncheck.rules.rule import Rule, rule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: The least share of the variance between classes that is missing where batches were sorted.
_LEAST_MISSING: Final = 0.3
#: Without labels: in a deep layer ln(sigma_r / sigma) is this far below 0, in its own standard
#: deviations, and early layers are right.
_SIGN: Final = -0.7
_TYPICAL: Final = 0.10
_DEEP: Final = 0.5
#: The deep layer implies a noise of variances this many times that of the median layer.
_GROWING: Final = 2.0
_SHUFFLE: Final = "shuffle while training, as bncheck does with files and folders"


@rule("BN204", "ordered-batches", Severity.ERROR, Severity.WARNING)
def ordered(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """The statistics were last updated on batches of one kind: sorted by class, scene or time.

    Such batches vary less than the data as a whole, and the more so the deeper the layer, because
    deep layers tell classes apart. The running average ends with the mean and the variance of the
    last few classes; a rank that sees a shard of the classes does the same.

    Criterion: with labels, the statistics of the first layer or of the one that deviates most are
    those of another mixture of the classes, less even than the data's: mean sum_k a_k mu_k and
    variance within + t between_a, with a_k >= 0 of sum 1 and 0 <= t <= 1, explain at least 75 % of
    its deviation. Or the running variances are var - theta between, with between the variance of
    the class means and one theta from 0.3 for all layers, which explains as much. Else a layer of
    the deeper half deviates most, its running variance is too small in nearly all channels (mean
    ln(sigma_r / sigma) below -0.7 of its standard deviation over channels), it implies at least
    twice the noise of the median layer (k_var, see BN201), and the median layer is right.

    Fix: recalibrate with shuffled data; shuffle in training.
    """
    mixture = network.mixture
    if mixture is not None and not mixture.more_even and mixture.explained >= LEAST:
        yield _of_some_classes(self, network, mixture)
        return
    if network.stem.classes:
        yield from _within_classes(self, network)
    yield from _by_variance(self, network)


def _of_some_classes(
    self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork, mixture: Mixture
) -> Claim:
    top = ", ".join(f"{k} ({weight:.0%})" for k, weight in mixture.largest[:3])
    return Claim(
        self,
        {m.layer.name: mixture.explained for m in network.layers},
        f"the running means are those of some classes, {top}, not of all: the last batches "
        "were sorted, or of a shard of the data",
        advice=_SHUFFLE,
        free=float(mixture.free),
        evidence={"explained_mean_shift": mixture.explained},
    )


def _within_classes(
    self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork
) -> Iterator[Claim]:
    """Running variances lack a share theta of the variance between classes, in every layer."""
    off = [m for m in network.layers if network.is_off(m)]
    if not off:
        return
    theta = _between_missing(off)
    if not _LEAST_MISSING <= theta <= 1.1:
        return
    shares = {}
    for m in off:
        mean, var = measured(m)
        shares[m.layer.name] = share(m, mean, var - min(theta, 1.0) * _between(m), 2)
    yield Claim(
        self,
        shares,
        f"the running variances lack {min(theta, 1.0):.0%} of the variance between classes: the "
        "last batches were sorted by class",
        advice=_SHUFFLE,
        free=2.0,
        evidence={"missing": theta},
    )


def _between_missing(layers: list[MeasuredLayer]) -> float:
    """The theta for which var - theta between fits the running variances best."""
    pull, off = [], []
    for m in layers:
        seen = np.maximum(measured(m)[1], 1e-12)
        pull.append(_between(m) / seen)
        off.append((seen - stored(m)[1]) / seen)
    x, y = np.concatenate(pull), np.concatenate(off)
    return float(x @ y / max(float(x @ x), 1e-12))


def _between(m: MeasuredLayer) -> Floats:
    """The variance of the class means, (C,)."""
    counts = np.array([c.images for c in m.classes.values()], np.float64)
    return weighted(np.stack([c.mean for c in m.classes.values()]), counts / counts.sum())[1]


def _by_variance(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    if len(network.w2) < 3 or network.of_other_weights:
        return
    place = int(np.argmax(network.w2))
    deepest, implied = network.batch[place], network.implied
    middle = float(np.median([found.by_variances for found in implied]))
    if place < _DEEP * (len(network.w2) - 1) or implied[place].sign > _SIGN:
        return
    if implied[place].by_variances < _GROWING * middle:
        return
    if float(np.median(network.w2)) >= max(_TYPICAL, network.w2[place] / 2):
        return
    yield Claim(
        self,
        {m.layer.name: 0.76 for m in network.layers},
        f"early layers agree, and deep ones hold {float(np.exp(deepest.signed)):.0%} times the "
        "variance they see: the last batches of training were alike, as when the data are "
        "sorted by class",
        advice=_SHUFFLE,
        free=1.5 * network.stem.layer.channels,
        predicts=False,
        evidence={"log_variance_ratio": deepest.signed},
    )
