"""Are a layer's statistics those of another mixture of the data's classes?

With class means mu_k (in the batch cascade), running statistics of data whose classes have shares
a_k >= 0, sum a_k = 1, would be

    mean = sum_k a_k mu_k        var = within + t sum_k a_k (mu_k - mean)^2

with within = var - the variance between classes as the data have them. t = 1 where every batch held
the mixture (a rank's shard), 0 where each held one class (sorted data). a is the simplex least
squares fit of the means, or uniform, which has no freedom; t the best in 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.measuring.measurement import MeasuredLayer
from bncheck.rules.data.scoring import share

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: How far a mixture is from the data's own classes, as half the sum of differences.
OTHERWISE: Final = 0.15
_TINY: Final = 1e-12
#: Steps of the descent at most, and between two attempts at a proof.
_STEPS: Final = 2000
_PROVING: Final = 20


@dataclass(frozen=True)
class Mixture:
    """The shares of the classes that a layer's statistics are of, and what that explains."""

    weights: dict[int, float]
    given: dict[int, float]
    explained: float
    free: int

    @property
    def largest(self) -> list[tuple[int, float]]:
        """Classes with their shares, the largest first."""
        order = sorted(self.weights.items(), key=lambda item: -item[1])
        return [(label, weight) for label, weight in order if weight > 0.01]

    @property
    def more_even(self) -> bool:
        """Whether it is the data that are one-sided: their entropy is the smaller one."""
        return more_even(self.weights, self.given)


def class_mixture(m: MeasuredLayer) -> Mixture | None:
    """The mixture that explains most; None where the data's own classes do as well."""
    labels = sorted(m.classes)
    if len(labels) < 2:
        return None
    counts = np.array([m.classes[k].images for k in labels], np.float64)
    own, number = counts / counts.sum(), len(labels)
    options = [(np.full(number, 1 / number), 0)]
    if m.layer.channels > number:
        options.append((_fitted(m, labels), number - 1))
    found = [
        Mixture(
            dict(zip(labels, map(float, weights), strict=True)),
            dict(zip(labels, map(float, own), strict=True)),
            _explained(m, labels, own, weights, free),
            free,
        )
        for weights, free in options
        if float(np.abs(weights - own).sum()) / 2 >= OTHERWISE
    ]
    return max(found, key=lambda mixture: mixture.explained, default=None)


def _fitted(m: MeasuredLayer, labels: list[int]) -> Floats:
    seen_mean, seen_var = m.seen
    scale = 1 / np.sqrt(np.maximum(seen_var, 0) + (m.layer.eps.value or 0.0) + _TINY)
    classes = np.stack([(m.classes[k].mean - seen_mean) * scale for k in labels], axis=1)
    return simplex_least_squares(classes, (m.stored[0] - seen_mean) * scale)


def _explained(
    m: MeasuredLayer, labels: list[int], own: Floats, weights: Floats, free: int
) -> float:
    means = np.stack([m.classes[k].mean for k in labels])
    mean, between = weighted(means, weights)
    within = np.maximum(m.seen[1] - weighted(means, own)[1], 0.0)
    seen = np.maximum(m.seen[1], _TINY)
    pull, off = between / seen, (m.stored[1] - within) / seen
    t = float(np.clip(pull @ off / max(float(pull @ pull), _TINY), 0.0, 1.0))
    return share(m, mean, within + t * between, free + 1)


def weighted(means: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Mean of class means (K, C) and their variance, for shares (K,) of the classes; (C,) each."""
    mean = weights @ means
    return mean, np.asarray(weights @ (means - mean) ** 2)


def more_even(shares: Mapping[int, float], others: Mapping[int, float]) -> bool:
    """Whether the first are spread over more classes, by their entropy."""
    return _entropy(shares) > _entropy(others)


def _entropy(shares: Mapping[int, float]) -> float:
    values = np.array([value for value in shares.values() if value > 0])
    return float(-np.sum(values * np.log(values)))


def simplex_least_squares(matrix: Floats, target: Floats) -> Floats:
    """The weights, at least 0 and of sum 1, for which matrix @ weights is nearest to the target.

    Projected gradient descent (Duchi et al. 2008 for the projection) with Nesterov's momentum,
    begun anew where it points uphill (O'Donoghue and Candes 2015); (C, K) and (C,) give (K,).
    Every few steps the weights above 0 are taken for the right ones, which a linear system proves.
    """
    weights = ahead = np.full(matrix.shape[1], 1 / matrix.shape[1])
    gram, pull = matrix.T @ matrix, matrix.T @ target
    step, pace = 1 / max(float(np.linalg.norm(gram, 2)), _TINY), 1.0
    for number in range(1, _STEPS + 1):
        if number % _PROVING == 0 and (exact := _proved(gram, pull, weights > 0)) is not None:
            return exact
        moved = _on_simplex(ahead - step * (gram @ ahead - pull))
        change = moved - weights
        if float(np.abs(change).max()) < 1e-9 and float(np.abs(moved - ahead).max()) < 1e-9:
            break
        uphill = float((ahead - moved) @ change) > 0
        faster = 1.0 if uphill else (1 + np.sqrt(1 + 4 * pace**2)) / 2
        ahead = moved if uphill else moved + change * (pace - 1) / faster
        weights, pace = moved, faster
    return weights


def _proved(gram: Floats, pull: Floats, above: NDArray[np.bool_]) -> Floats | None:
    """The optimum, if these weights are above 0 in it; by the conditions of Karush, Kuhn, Tucker.

    gram @ weights - pull + slack is 0 where they are, and not below 0 elsewhere.
    """
    size = int(above.sum())
    system = np.ones((size + 1, size + 1))
    system[:size, :size], system[size, size] = gram[np.ix_(above, above)], 0
    try:
        *found, slack = np.linalg.solve(system, np.append(pull[above], 1))
    except np.linalg.LinAlgError:
        return None
    weights = np.zeros(len(pull))
    weights[above] = found
    slope = gram @ weights - pull + slack
    tolerance = 1e-9 * float(np.abs(pull).max())
    return weights if weights.min() >= 0 and slope.min() >= -tolerance else None


def _on_simplex(values: Floats) -> Floats:
    descending = np.sort(values)[::-1]
    excess = (np.cumsum(descending) - 1) / np.arange(1, len(values) + 1)
    last = int(np.nonzero(descending > excess)[0][-1])
    return np.asarray(np.maximum(values - excess[last], 0))
