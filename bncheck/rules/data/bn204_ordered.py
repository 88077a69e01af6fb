"""BN204."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.findings import Severity
from bncheck.measuring.measurement import MeasuredLayer
from bncheck.rules.data.claim import Claim
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.data.scoring import measured, share, stored
from bncheck.rules.rule import Rule, rule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: Means deviate by at least so much before classes are asked.
_LEAST_SHIFT: Final = 0.04
#: The share of the mean shift that a mixture of the class means explains.
_EXPLAINED: Final = 0.88
#: How far the mixture is from the data's own classes, as half the sum of differences.
_OTHERWISE: Final = 0.15
#: The least share of the variance between classes that is missing where batches were sorted.
_LEAST_MISSING: Final = 0.3
#: Without labels: a deep layer's running variance is too small, early layers are right.
_SIGNED: Final = -0.12
_TYPICAL: Final = 0.10
_DEEP: Final = 0.5


@rule("BN204", "ordered-batches", Severity.ERROR, Severity.WARNING)
def ordered(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """The statistics were last updated on batches of one kind: sorted by class, scene or time.

    Such batches vary less than the data as a whole, and the more so the deeper the layer, because
    deep layers tell classes apart. The running average ends with the mean and the variance of the
    last few classes; a rank that sees a shard of the classes does the same.

    Criterion: with labels, the first layer's running mean is a mixture of the class means with
    weights of its own: sum_k a_k mu_k, a_k >= 0, sum 1, explains at least 88 % of how far the means
    are off, and the weights are not those of the data; or the running variances are
    var - theta between, with between the variance of the class means and one theta from 0.3 for all
    layers, which explains at least 75 % of the deviation. Else a deep layer deviates most,
    its running variance is too small (mean ln(running_var / var) below -0.12, not by a few channels
    alone), and the median layer is right (W2 below 0.10).

    Fix: recalibrate with shuffled data; shuffle in training.
    """
    mixture = _mixture(network)
    if mixture is not None:
        explained, weights = mixture
        top = ", ".join(f"{k} ({w:.0%})" for k, w in weights[:3])
        yield Claim(
            self,
            {m.layer.name: explained for m in network.layers},
            f"the running means are those of some classes, {top}, not of all: the last batches "
            "were sorted, or of a shard of the data",
            advice="shuffle while training, as bncheck does with files and folders",
            free=float(len(weights)),
            evidence={"explained_mean_shift": explained},
        )
        return
    if network.stem.classes:
        yield from _within_classes(self, network)
    yield from _by_variance(self, network)


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
        advice="shuffle while training, as bncheck does with files and folders",
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
    means = np.stack([c.mean for c in m.classes.values()])
    middle = counts @ means / counts.sum()
    return np.asarray(counts @ (means - middle) ** 2 / counts.sum())


def _by_variance(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    if len(network.w2) < 3:
        return
    place = int(np.argmax(network.w2))
    deepest = network.batch[place]
    if place < _DEEP * (len(network.w2) - 1) or deepest.signed > _SIGNED:
        return
    if float(np.median(deepest.log_variance_ratio)) > _SIGNED / 2:  # a few broken channels
        return
    if float(deepest.log_variance_ratio.std()) < abs(deepest.signed) / 2:  # a factor, not a mixture
        return
    if float(np.median(network.w2)) >= _TYPICAL:
        return
    yield Claim(
        self,
        {m.layer.name: 0.76 for m in network.layers},
        f"early layers agree, and deep ones hold {float(np.exp(deepest.signed)):.0%} times the "
        "variance they see: the last batches of training were alike, as when the data are "
        "sorted by class",
        advice="shuffle while training, as bncheck does with files and folders",
        free=1.5 * network.stem.layer.channels,
        predicts=False,
        evidence={"log_variance_ratio": deepest.signed},
    )


def _mixture(network: MeasuredNetwork) -> tuple[float, list[tuple[int, float]]] | None:
    """What share of the shifted means classes explain, and their weights."""
    found = class_mixture(network)
    if found is None or found[0] < _EXPLAINED:
        return None
    explained, weights = found
    order = sorted(weights.items(), key=lambda item: -item[1])
    return explained, [(label, weight) for label, weight in order if weight > 0.01]


def class_mixture(network: MeasuredNetwork) -> tuple[float, dict[int, float]] | None:
    """The mixture of class means that the first layer's running means are, and its share.

    No normalisation comes before the first layer, so its class means are those of sorted batches,
    too. None where its means are not off, or where the mixture is the one of the data.
    """
    stem = network.stem
    labels = sorted(stem.classes)
    scaled = _scaled(stem, labels)
    if scaled is None:
        return None
    classes, shift = scaled
    if float(np.sqrt(np.mean(shift**2))) < _LEAST_SHIFT or len(shift) <= 2 * len(labels):
        return None
    weights = simplex_least_squares(classes, shift)
    given = np.array([stem.classes[k].images for k in labels], np.float64)
    if float(np.abs(weights - given / given.sum()).sum()) / 2 < _OTHERWISE:
        return None
    explained = _explained(classes, shift, weights, len(labels) - 1)
    return explained, dict(zip(labels, map(float, weights), strict=True))


def _scaled(m: MeasuredLayer, labels: list[int]) -> tuple[Floats, Floats] | None:
    """Class means and the running mean about the measured mean, in standard deviations."""
    if len(labels) < 2 or sorted(m.classes) != labels:
        return None
    seen_mean, seen_var = measured(m)
    scale = 1 / np.sqrt(np.maximum(seen_var, 0) + (m.layer.eps.value or 0.0) + 1e-12)
    classes = np.stack([(m.classes[k].mean - seen_mean) * scale for k in labels], axis=1)
    return classes, (stored(m)[0] - seen_mean) * scale


def _explained(classes: Floats, shift: Floats, weights: Floats, free: int) -> float:
    left = float(np.sum((classes @ weights - shift) ** 2)) * len(shift) / (len(shift) - free)
    return 1 - left / float(np.sum(shift**2))


def simplex_least_squares(matrix: Floats, target: Floats, steps: int = 2000) -> Floats:
    """The weights, at least 0 and of sum 1, for which matrix @ weights is nearest to the target.

    Projected gradient descent (Duchi et al. 2008 for the projection); (C, K) and (C,) give (K,).
    """
    number = matrix.shape[1]
    weights = np.full(number, 1 / number)
    gram, pull = matrix.T @ matrix, matrix.T @ target
    step = 1 / max(float(np.linalg.norm(gram, 2)), 1e-12)
    for _ in range(steps):
        moved = _on_simplex(weights - step * (gram @ weights - pull))
        if float(np.abs(moved - weights).max()) < 1e-9:
            break
        weights = moved
    return weights


def _on_simplex(values: Floats) -> Floats:
    descending = np.sort(values)[::-1]
    excess = (np.cumsum(descending) - 1) / np.arange(1, len(values) + 1)
    last = int(np.nonzero(descending > excess)[0][-1])
    return np.asarray(np.maximum(values - excess[last], 0))
