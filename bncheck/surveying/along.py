"""The loss and its gradient along one step of descent.

Santurkar et al. 2018, "How Does Batch Normalization Help Optimization?", figure 4, with their
definitions: on one batch g = grad L(theta), and theta - a g for steps a from half the rate of the
training to four times it. https://arxiv.org/abs/1805.11604
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from bncheck.surveying.objective import Objective, Vector, dot, moved, norm

#: Steps as multiples of the rate.
MULTIPLES: Final = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)


@dataclass(frozen=True, slots=True)
class Along:
    """What one batch says. `losses` are those at the steps, `start` is the one at theta.

    `l2` is the largest ||g(a) - g||, `relative` that over ||g||, `cosine` the least between g(a)
    and g, `beta` the largest ||g(a) - g|| / (a ||g||): the effective beta-smoothness.
    """

    start: float
    losses: tuple[float, ...]
    l2: float
    relative: float
    cosine: float
    beta: float


def along_gradient(objective: Objective, eta: float, start: float, gradient: Vector) -> Along:
    """Eight forward and backward passes beside the one that gave `start` and `gradient`."""
    length = norm(gradient)
    losses, apart, cosines, slopes = [], [], [], []
    for multiple in MULTIPLES:
        step = multiple * eta
        value, there = objective.gradient(moved(objective.start, gradient, step))
        change = norm([b - a for a, b in zip(gradient, there, strict=True)])
        losses.append(value if math.isfinite(value) else math.inf)
        apart.append(change)
        slopes.append(change / (step * length))
        cosines.append(_cosine(gradient, there))
    known = [cosine for cosine in cosines if math.isfinite(cosine)]
    return Along(
        start,
        tuple(losses),
        max(apart),
        max(apart) / length,
        min(known, default=math.nan),
        max(slopes),
    )


def _cosine(one: Vector, other: Vector) -> float:
    lengths = norm(one) * norm(other)
    return dot(one, other) / lengths if lengths and math.isfinite(lengths) else math.nan
