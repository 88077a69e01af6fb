"""The scales of the input features, and what their spread does to the error surface.

Near its minimum the error of a linear first layer w x + b is a quadratic whose curvature is the
second moment matrix of (x, 1). Its condition number, the steepest direction's curvature over the
flattest's, is about how many steps gradient descent needs to cross the valley; centring the
features and dividing them by their standard deviations makes it smaller (LeCun et al. 1998,
Efficient BackProp, section 5). Which directions there are at all is decided on the correlation
matrix, where the features' units cancel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_LISTED = 16
#: Eigenvalues of a correlation matrix below so much of the largest are rounding.
_ROUNDING = 1e-10


@dataclass(frozen=True)
class Conditions:
    """Condition numbers of the features as they are, centred, and standardised.

    `steepest` and `flattest` are the features that weigh most in the directions of the largest and
    of the smallest curvature, as they are.
    """

    raw: float
    centred: float
    standardised: float
    rank: int
    steepest: int
    flattest: int

    @property
    def gain(self) -> float:
        """What standardising would divide the condition number by."""
        return self.raw / self.standardised


@dataclass(frozen=True)
class InputFeatures:
    """What the first layer with weights is fed; a feature is a channel, or an entry of a vector.

    `moments` is the mean of (x, 1) (x, 1)^T, x being what one output is a linear function of; None
    where that is too many numbers. `bias` tells whether the layer has one.
    """

    layer: str
    mean: Floats
    sd: Floats
    moments: Floats | None
    bias: bool

    @cached_property
    def conditions(self) -> Conditions | None:
        """The condition numbers, on demand: eigenvalues can cost as much as some batches."""
        if self.moments is None:
            return None
        found = conditions_of(self.moments, self.bias)
        return found and _by_channel(found, len(self.moments) - 1, self.sd.size)

    @property
    def spread(self) -> float:
        """The largest standard deviation over the smallest that is not zero."""
        positive = self.sd[self.sd > 0]
        return float(positive.max() / positive.min()) if positive.size else 1.0

    def to_dict(self) -> dict[str, object]:
        """As plain data; the first features only."""
        c = self.conditions
        return {
            "layer": self.layer,
            "features": int(self.sd.size),
            "mean": [float(v) for v in self.mean[:_LISTED]],
            "sd": [float(v) for v in self.sd[:_LISTED]],
            "spread": self.spread,
            "condition_number": None if c is None else c.raw,
            "centred_condition_number": None if c is None else c.centred,
            "standardised_condition_number": None if c is None else c.standardised,
            "rank": None if c is None else c.rank,
        }


def conditions_of(moments: Floats, bias: bool) -> Conditions | None:
    """The condition numbers from the mean of (x, 1) (x, 1)^T, shape (features + 1, features + 1).

    Features that never vary are left out. None where no feature varies.
    """
    mean, second = moments[:-1, -1], moments[:-1, :-1]
    covariance = second - np.outer(mean, mean)
    variance = np.diag(covariance)
    varies = variance > np.finfo(np.float64).eps * 16 * np.diag(second)
    if not varies.any():
        return None
    places = np.flatnonzero(varies)
    sd = np.sqrt(variance[varies])
    covariance = covariance[np.ix_(varies, varies)]
    correlation = np.linalg.eigvalsh(covariance / np.outer(sd, sd))
    rank = int((correlation > correlation[-1] * _ROUNDING).sum())
    kept = [*places, len(mean)] if bias else places
    values, vectors = np.linalg.eigh(moments[np.ix_(kept, kept)])
    weights = np.abs(vectors[: len(places)])
    flat = len(kept) - rank - bias
    return Conditions(
        _ratio(values, rank + bias),
        _ratio(np.linalg.eigvalsh(covariance), rank, bias),
        _ratio(correlation, rank, bias),
        rank,
        int(places[weights[:, -1].argmax()]),
        int(places[weights[:, flat].argmax()]),
    )


def _ratio(values: NDArray[np.floating[Any]], rank: int, bias: bool = False) -> float:
    """The largest over the smallest of the `rank` largest; a bias adds a 1 to centred features."""
    kept = values[len(values) - rank :]
    kept = np.append(kept, 1.0) if bias else kept
    return float(kept.max() / max(kept.min(), np.finfo(np.float64).tiny))


def _by_channel(found: Conditions, inputs: int, channels: int) -> Conditions:
    """The channels in place of the inputs of a patch, which lie channel by channel."""
    each = inputs // channels
    return replace(found, steepest=found.steepest // each, flattest=found.flattest // each)
