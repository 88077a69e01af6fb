"""Sums, products, functions of each number, and what is made of several at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from bncheck.graph import specs
from bncheck.graph.dataflow import Floats
from bncheck.graph.means.spread import SHARES, Spread, Step, UnknownError, gaussian, joined
from bncheck.graph.pointwise import FUNCTIONS

#: Neighbours are alike: the largest of a window is about that of this many independent ones.
_INDEPENDENT: Final = 2.0


def added_up(step: Step) -> Spread:
    """factors[0] * x + factors[1] * y."""
    spec = step.op.spec
    assert isinstance(spec, specs.Add)
    first, second = spec.factors
    return _joint(step, lambda x, y: first * x + second * y, _added)


def _added(step: Step, x: Spread, y: Spread) -> tuple[Floats, Floats]:
    spec = step.op.spec
    assert isinstance(spec, specs.Add)
    first, second = spec.factors
    return first * x.mean + second * y.mean, first**2 * x.var + second**2 * y.var


def multiplied_up(step: Step) -> Spread:
    """x * y, or x / y."""
    spec = step.op.spec
    assert isinstance(spec, specs.Mul)
    if spec.divides:
        return _joint(step, lambda x, y: x / y, _refused)
    return _joint(step, lambda x, y: x * y, _multiplied)


def _multiplied(_: Step, x: Spread, y: Spread) -> tuple[Floats, Floats]:
    """As of independent ones: a gate, for instance."""
    squares = (x.var + x.mean**2) * (y.var + y.mean**2)
    mean = x.mean * y.mean
    return mean, squares - mean**2


def _refused(_: Step, __: Spread, ___: Spread) -> tuple[Floats, Floats]:
    raise UnknownError


def _joint(
    step: Step,
    same: Callable[[Floats, Floats], Floats],
    apart: Callable[[Step, Spread, Spread], tuple[Floats, Floats]],
) -> Spread:
    """A function of two values: a constant, functions of one value, or independent ones."""
    known = [step.known.get(step.op.input(slot) or "") for slot in (0, 1)]
    if known[0] is None or known[1] is None:
        given = known[0] or known[1]
        if given is None:
            raise UnknownError
        number = step.weight(0 if known[0] is None else 1)
        sides = [number if x is None else x.quantiles for x in known]
        rank = max(given.rank, number.ndim)
        return given.of(same(*(aligned(side, rank, side is number) for side in sides)))
    x, y = known[0], known[1]
    if x.base is y.base and x.rank == y.rank:
        return x.of(same(x.quantiles, y.quantiles))
    if x.rank != y.rank:
        raise UnknownError
    mean, var = np.broadcast_arrays(*apart(step, x, y))
    return joined((x, y), gaussian(mean, var))


def aligned(numbers: Floats, rank: int, constant: bool) -> Floats:
    """Of that rank, by new axes in front, as they broadcast; the shares come first."""
    own, shares = (numbers.shape, 1) if constant else (numbers.shape[1:], len(numbers))
    return numbers.reshape(shares, *[1] * (rank - len(own)), *own)


def rectified(step: Step) -> Spread:
    """A rectifier; not of what is mixed, whose variance is a guess."""
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.Rectifier)
    if x.mixed:
        raise UnknownError
    slope: Floats | float | None = spec.negative
    if slope == 0 and spec.positive == 1:
        return x.of(np.maximum(x.quantiles, 0.0))
    if slope is None:
        slope = step.weight(1)
        if slope.ndim < 2 and x.rank > 1:  # torch's PReLU: one for each channel
            slope = slope.reshape(-1, *[1] * (x.rank - 2))
    return x.of(np.where(x.quantiles > 0, spec.positive * x.quantiles, slope * x.quantiles))


def function_of(step: Step) -> Spread:
    """Any other function of each number; not of what is mixed."""
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.Pointwise)
    if x.mixed:
        raise UnknownError
    return x.of(FUNCTIONS[spec.name](x.quantiles, *spec.settings))


def bounded(step: Step) -> Spread:
    """A clamp with one bound."""
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.Bounded)
    if x.mixed:
        raise UnknownError
    return x.of(FUNCTIONS["clip"](x.quantiles, spec.low, spec.high))


def averaged(step: Step) -> Spread:
    """The mean over some axes: along most of them nothing differs."""
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.Average)
    axes = tuple(axis + 1 for axis in spec.axes)
    quantiles = x.quantiles.mean(axis=axes, keepdims=not spec.drops)
    return x.moved(quantiles * (1.0 if spec.gain is None else spec.gain))


def largest(step: Step) -> Spread:
    """The quantile function of the largest of n is Q(p^(1/n)).

    Smallest ones are not told apart: both are called Maximum, and so those are not predicted.
    """
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.Maximum)
    if "min" in step.op.kind.lower():
        raise UnknownError
    ordered = np.sort(x.quantiles, axis=0)
    shares = ((np.arange(SHARES) + 0.5) / SHARES) ** (1 / _INDEPENDENT)
    place = np.clip(shares * SHARES - 0.5, 0, SHARES - 1)
    low = np.floor(place).astype(int)
    part = (place - low).reshape(-1, *[1] * x.rank)
    high = np.minimum(low + 1, SHARES - 1)
    quantiles = ordered[low] * (1 - part) + ordered[high] * part
    axes = tuple(axis + 1 for axis in spec.axes)
    return x.moved(quantiles.max(axis=axes, keepdims=not spec.drops))
