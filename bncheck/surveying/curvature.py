"""The largest eigenvalue of the Hessian of the loss, by power iteration.

v <- H v / ||H v|| turns towards the eigenvector whose eigenvalue lambda is largest in size, and the
Rayleigh quotient v' H v rises to lambda. Plain gradient descent on a quadratic bowl of that
curvature diverges from the rate 2 / lambda on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bncheck.surveying.objective import Vector, dot, norm

#: The quotient has settled when it changes by less than this share of itself.
TOLERANCE: Final = 1e-3
#: |v' H v| / ||H v|| is 1 for an eigenvector; the quotient of a mixture may stand still as well.
_ALIGNED: Final = 0.9
#: Products with the Hessian at most, for one direction.
MOST: Final = 100

Product = Callable[[Vector], Vector]


@dataclass(frozen=True, slots=True)
class Eigenvalue:
    """The largest eigenvalue; where it has not `settled`, it is at least this."""

    value: float
    settled: bool
    vector: Vector


def largest_eigenvalue(product: Product, start: Vector) -> Eigenvalue:
    """The algebraically largest, from a start that is not zero.

    Where the one that is largest in size is negative, H - lambda I has the same vectors and no
    negative value: a second iteration finds its largest, which is the one that is wanted.
    """
    found = _iterated(product, start, 0.0)
    if found.value < 0:
        return _iterated(product, start, found.value)
    return found


def _iterated(product: Product, start: Vector, shift: float) -> Eigenvalue:
    v = _unit(start)
    last = math.nan
    for _ in range(MOST):
        w = [h - shift * x for h, x in zip(product(v), v, strict=True)]
        quotient = dot(v, w)
        length = norm(w)
        if not math.isfinite(length) or length == 0.0:
            return Eigenvalue(quotient + shift, math.isfinite(length), v)
        v = [x / length for x in w]
        steady = abs(quotient - last) <= TOLERANCE * abs(quotient)
        if steady and abs(quotient) >= _ALIGNED * length:
            return Eigenvalue(quotient + shift, True, v)
        last = quotient
    return Eigenvalue(last + shift, False, v)


def _unit(v: Vector) -> Vector:
    length = norm(v)
    return [x / length for x in v]
