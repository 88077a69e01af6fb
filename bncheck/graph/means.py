"""The means that a graph's affines and weights predict for the normalisations behind them.

What a BatchNorm gives is taken for N(beta, gamma^2) in each channel: that is what its statistics
are for. A value on the way is kept as the quantiles of its distribution, one set for each channel
(or for each place where they differ); axes along which nothing differs have size 1. Functions of a
number act on the quantiles; linear maps act on the means, and add variances as if their inputs were
independent. What is not described, and what comes of it, is not predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Final

import numpy as np

from bncheck.graph import specs
from bncheck.graph.dataflow import Floats, Graph, Op, Shape
from bncheck.graph.pointwise import FUNCTIONS

#: Quantiles of each distribution, at the midpoints of this many equal shares.
_SHARES: Final = 64
#: A value has at most this many distributions, and a tensor this many positions to follow.
_MOST_VALUES: Final = 1 << 16
_MOST_PLACES: Final = 1 << 22
#: Neighbours are alike: the largest of a window is about that of this many independent ones.
_INDEPENDENT: Final = 2.0


def _normal_quantiles() -> Floats:
    points = np.array([NormalDist().inv_cdf((i + 0.5) / _SHARES) for i in range(_SHARES)])
    return np.asarray(points / points.std())


class UnknownError(Exception):
    """Nothing is predicted for a value."""


@dataclass(frozen=True, eq=False)
class Spread:
    """The distributions of a value's numbers.

    `quantiles`: shape (shares, ...), the rest as the value's with 1 where nothing differs. `base`
    is one object for all functions of one value. `norms` and `maps` are the labels of the
    normalisations and of the weights that the prediction rests on. `mixed` once a linear map has
    added channels up: its variance is a guess, so what a function makes of it is not predicted.
    """

    quantiles: Floats
    base: object
    norms: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    mixed: bool = False

    @property
    def mean(self) -> Floats:
        """The mean of each distribution."""
        return np.asarray(self.quantiles.mean(axis=0))

    @property
    def var(self) -> Floats:
        """The variance of each distribution."""
        return np.asarray(self.quantiles.var(axis=0))

    @property
    def rank(self) -> int:
        """The number of the value's axes."""
        return self.quantiles.ndim - 1

    def of(self, quantiles: Floats) -> Spread:
        """A function of the same value."""
        return replace(self, quantiles=quantiles)

    def moved(self, quantiles: Floats) -> Spread:
        """The same numbers at other places."""
        return replace(self, quantiles=quantiles, base=object())


def _joined(parts: Sequence[Spread], quantiles: Floats) -> Spread:
    """A new value that was made of these."""
    norms = dict.fromkeys(name for part in parts for name in part.norms)
    maps = dict.fromkeys(name for part in parts for name in part.maps)
    mixed = any(part.mixed for part in parts)
    return Spread(quantiles, object(), tuple(norms), tuple(maps), mixed)


_POINTS: Final = _normal_quantiles()


def _gaussian(mean: Floats, var: Floats) -> Floats:
    """Quantiles of N(mean, var) of each element; both have one shape."""
    _check_size(mean.size)
    points = _POINTS.reshape(_SHARES, *[1] * mean.ndim)
    return np.asarray(mean + points * np.sqrt(np.maximum(var, 0.0)))


def _check_size(values: int) -> None:
    """Refuse a value of too many distributions before it is made."""
    if values > _MOST_VALUES:
        raise UnknownError


@dataclass(frozen=True)
class Prediction:
    """What is predicted for the input of a normalisation: the mean of each channel.

    `stored` is the value that holds the running mean; `norms` and `maps` as in Spread.
    """

    label: str
    stored: str
    mean: Floats
    norms: tuple[str, ...]
    maps: tuple[str, ...]


def predicted_means(graph: Graph, weights: Callable[[str], Floats | None]) -> Iterator[Prediction]:
    """A prediction for each normalisation whose input is understood."""
    known: dict[str, Spread] = {}
    for op in graph.ops:
        if isinstance(op.spec, specs.Norm):
            found = _prediction(graph, op, known.get(op.inputs[0] or ""))
            if found is not None:
                yield found
        try:
            spreads = _passed(_Step(graph, op, known, weights))
        except UnknownError:
            continue
        known.update(zip(op.outputs, spreads, strict=False))


def _prediction(graph: Graph, op: Op, spread: Spread | None) -> Prediction | None:
    assert isinstance(op.spec, specs.Norm)
    stored = op.input(3)
    shape = graph.shape(stored)
    if spread is None or op.spec.uses_batch or stored is None or not shape or spread.rank < 2:
        return None
    channels = shape[0] if isinstance(shape[0], int) else 0
    mean = _along(spread.mean, 1, channels)
    return None if mean is None else Prediction(op.label, stored, mean, spread.norms, spread.maps)


def _along(numbers: Floats, axis: int, size: int) -> Floats | None:
    """One number for each place of an axis, averaged over the others."""
    axis %= numbers.ndim
    flat = numbers.mean(axis=tuple(i for i in range(numbers.ndim) if i != axis))
    if flat.size not in (1, size):
        return None
    return np.broadcast_to(flat, size).copy()


@dataclass(frozen=True)
class _Step:
    """A call, and what is known when it runs."""

    graph: Graph
    op: Op
    known: Mapping[str, Spread]
    weights: Callable[[str], Floats | None]

    def spread(self, slot: int = 0) -> Spread:
        """That of an input."""
        found = self.known.get(self.op.input(slot) or "")
        if found is None:
            raise UnknownError
        return found

    def weight(self, slot: int) -> Floats:
        """The numbers of an input that has fixed ones."""
        found = self.weights(self.op.input(slot) or "")
        if found is None:
            raise UnknownError
        return found

    def has(self, slot: int) -> bool:
        """Whether there is such an input."""
        return self.op.input(slot) is not None

    def sizes(self, name: str | None) -> tuple[int, ...]:
        """A value's shape, 1 for a size that is not known."""
        shape: Shape | None = self.graph.shape(name)
        if shape is None:
            raise UnknownError
        return tuple(size if isinstance(size, int) else 1 for size in shape)


def _passed(step: _Step) -> list[Spread]:
    passing = _PASSING.get(type(step.op.spec))
    if passing is None:
        raise UnknownError
    try:
        found = passing(step)
    except (ValueError, IndexError):  # shapes that do not fit: of a model that cannot run
        raise UnknownError from None
    return found if isinstance(found, list) else [found]


def _norm(step: _Step) -> Spread:
    """N(beta, gamma^2) in each channel, whatever it was before."""
    rank = len(step.sizes(step.op.inputs[0]))
    if rank < 2:
        raise UnknownError
    weight = step.weight(1) if step.has(1) else np.ones(1)
    bias = step.weight(2) if step.has(2) else np.zeros(1)
    mean, var = (np.broadcast_to(x.ravel(), max(weight.size, bias.size)) for x in (bias, weight**2))
    shape = (1, -1, *[1] * (rank - 2))
    quantiles = _gaussian(mean.reshape(shape), var.reshape(shape))
    return Spread(quantiles, object(), (step.op.label,))


def _linear_map(
    step: _Step, axis: int, matrix: Floats, groups: int, bias: Floats | float
) -> Spread:
    """y = matrix x + bias along an axis; matrix [groups, out per group, in per group]."""
    x = step.spread()
    per_group = matrix.shape[2]
    moments = [_along(m, axis, groups * per_group) for m in (x.mean, x.var)]
    if moments[0] is None or moments[1] is None:
        raise UnknownError
    first, second = (m.reshape(groups, per_group, 1) for m in moments if m is not None)
    mean, var = (matrix @ first).ravel() + bias, (matrix**2 @ second).ravel()
    shape = [1] * x.rank
    shape[axis] = mean.size
    maps = tuple(dict.fromkeys((*x.maps, step.op.label)))
    return Spread(_gaussian(mean.reshape(shape), var.reshape(shape)), object(), x.norms, maps, True)


def _convolution(step: _Step) -> Spread:
    spec = step.op.spec
    assert isinstance(spec, specs.Conv)
    weight = step.weight(1)
    if weight.ndim < 3 or len(weight) % spec.groups:
        raise UnknownError
    kernel = weight.reshape(*weight.shape[:2], -1).sum(axis=2)
    matrix = kernel.reshape(spec.groups, -1, kernel.shape[1])
    return _linear_map(step, -(weight.ndim - 1), matrix, spec.groups, _bias(step))


def _transposed_convolution(step: _Step) -> Spread:
    """Each output is reached by a share of the kernel: its size over that of the steps."""
    spec = step.op.spec
    assert isinstance(spec, specs.ConvTranspose)
    weight = step.weight(1)
    if weight.ndim < 3 or len(weight) % spec.groups:
        raise UnknownError
    sizes = [step.sizes(name)[2:] for name in (step.op.inputs[0], step.op.outputs[0])]
    growth = max(1.0, round(math.prod(sizes[1]) / max(1, math.prod(sizes[0]))))
    kernel = weight.reshape(*weight.shape[:2], -1).sum(axis=2) / (
        math.prod(spec.stride) if spec.stride else min(growth, math.prod(weight.shape[2:]))
    )
    matrix = kernel.reshape(spec.groups, -1, kernel.shape[1]).transpose(0, 2, 1)
    return _linear_map(step, -(weight.ndim - 1), matrix, spec.groups, _bias(step))


def _linear(step: _Step) -> Spread:
    spec = step.op.spec
    assert isinstance(spec, specs.Linear)
    weight = step.weight(1)
    if weight.ndim != 2 or spec.axes != (-1, -1):
        raise UnknownError
    matrix = weight if spec.output_first else weight.T
    return _linear_map(step, -1, spec.alpha * matrix[None], 1, spec.beta * _bias(step))


def _bias(step: _Step) -> Floats | float:
    return step.weight(2).ravel() if step.has(2) else 0.0


def _sum(step: _Step) -> Spread:
    spec = step.op.spec
    assert isinstance(spec, specs.Add)
    first, second = spec.factors
    return _joint(step, lambda x, y: first * x + second * y, _added)


def _added(step: _Step, x: Spread, y: Spread) -> tuple[Floats, Floats]:
    spec = step.op.spec
    assert isinstance(spec, specs.Add)
    first, second = spec.factors
    return first * x.mean + second * y.mean, first**2 * x.var + second**2 * y.var


def _product(step: _Step) -> Spread:
    spec = step.op.spec
    assert isinstance(spec, specs.Mul)
    if spec.divides:
        return _joint(step, lambda x, y: x / y, _refused)
    return _joint(step, lambda x, y: x * y, _multiplied)


def _multiplied(_: _Step, x: Spread, y: Spread) -> tuple[Floats, Floats]:
    """As of independent ones: a gate, for instance."""
    squares = (x.var + x.mean**2) * (y.var + y.mean**2)
    mean = x.mean * y.mean
    return mean, squares - mean**2


def _refused(_: _Step, __: Spread, ___: Spread) -> tuple[Floats, Floats]:
    raise UnknownError


def _joint(
    step: _Step,
    same: Callable[[Floats, Floats], Floats],
    apart: Callable[[_Step, Spread, Spread], tuple[Floats, Floats]],
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
        return given.of(same(*(_aligned(side, rank, side is number) for side in sides)))
    x, y = known[0], known[1]
    if x.base is y.base and x.rank == y.rank:
        return x.of(same(x.quantiles, y.quantiles))
    if x.rank != y.rank:
        raise UnknownError
    mean, var = np.broadcast_arrays(*apart(step, x, y))
    return _joined((x, y), _gaussian(mean, var))


def _aligned(numbers: Floats, rank: int, constant: bool) -> Floats:
    """Of that rank, by new axes in front, as they broadcast; the shares come first."""
    own, shares = (numbers.shape, 1) if constant else (numbers.shape[1:], len(numbers))
    return numbers.reshape(shares, *[1] * (rank - len(own)), *own)


def _rectified(step: _Step) -> Spread:
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.Rectifier)
    if x.mixed:
        raise UnknownError
    slope: Floats | float | None = spec.negative
    if slope is None:
        slope = step.weight(1)
        if slope.ndim < 2 and x.rank > 1:  # torch's PReLU: one for each channel
            slope = slope.reshape(-1, *[1] * (x.rank - 2))
    return x.of(np.where(x.quantiles > 0, x.quantiles, slope * x.quantiles))


def _function(step: _Step) -> Spread:
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.Pointwise)
    if x.mixed:
        raise UnknownError
    return x.of(FUNCTIONS[spec.name](x.quantiles, *spec.settings))


def _identity(step: _Step) -> Spread:
    return step.spread()


def _reshaped(step: _Step) -> Spread:
    """Through the places of the numbers: axes along which nothing differs are seen in the end."""
    x = step.spread()
    before, after = step.sizes(step.op.inputs[0]), step.sizes(step.op.outputs[0])
    size = math.prod(before)
    if size != math.prod(after) or size > _MOST_PLACES or len(before) != x.rank:
        raise UnknownError
    shape = x.quantiles.shape[1:]
    places = np.arange(math.prod(shape)).reshape(shape)
    try:
        places = np.broadcast_to(places, before).reshape(after)
    except ValueError:
        raise UnknownError from None
    for axis, length in enumerate(after):
        first = places.take([0], axis=axis) if length > 1 else None
        places = first if first is not None and bool((places == first).all()) else places
    _check_size(places.size)
    return x.moved(x.quantiles.reshape(_SHARES, -1)[:, places])


def _transposed(step: _Step) -> Spread:
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.Transpose)
    return x.moved(x.quantiles.transpose(0, *(axis + 1 for axis in spec.order)))


def _expanded(step: _Step) -> Spread:
    x = step.spread()
    rank = len(step.sizes(step.op.outputs[0]))
    return x.moved(_aligned(x.quantiles, rank, False))


def _picked(step: _Step) -> Spread:
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.Gather)
    quantiles = x.quantiles
    for axis, places in spec.picks:
        if quantiles.shape[axis + 1] > 1:
            if places is None:
                raise UnknownError
            _check_size(quantiles[0].size // quantiles.shape[axis + 1] * len(places))
            quantiles = quantiles.take(places, axis=axis + 1)
    return x.moved(quantiles)


def _concatenated(step: _Step) -> Spread:
    spec = step.op.spec
    assert isinstance(spec, specs.Concat)
    parts = [step.spread(slot) for slot in range(len(step.op.inputs))]
    if len({part.rank for part in parts}) != 1:
        raise UnknownError
    quantiles = [part.quantiles for part in parts]
    axis = spec.axis + 1
    if spec.stacks:
        quantiles = [np.expand_dims(q, axis) for q in quantiles]
    else:
        sizes = [step.sizes(name)[spec.axis] for name in step.op.inputs]
        _check_size(sum(sizes) * max(q[0].size // q.shape[axis] for q in quantiles))
        quantiles = [q.repeat(n, axis) if q.shape[axis] == 1 else q
                     for q, n in zip(quantiles, sizes, strict=True)]  # fmt: skip
    common = np.broadcast_shapes(*((*q.shape[:axis], 1, *q.shape[axis + 1 :]) for q in quantiles))
    wide = [np.broadcast_to(q, (*common[:axis], q.shape[axis], *common[axis + 1 :]))
            for q in quantiles]  # fmt: skip
    _check_size(sum(q[0].size for q in wide))
    return _joined(parts, np.concatenate(wide, axis))


def _cut(step: _Step) -> list[Spread]:
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.Split)
    axis, found = spec.axis + 1, []
    for part in spec.parts:
        whole = x.quantiles.shape[axis] == 1
        piece = x.quantiles if whole else x.quantiles[(slice(None),) * axis + (part,)]
        found.append(x.moved(piece.squeeze(axis) if spec.drops else piece))
    return found


def _averaged(step: _Step) -> Spread:
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.Average)
    axes = tuple(axis + 1 for axis in spec.axes)
    quantiles = x.quantiles.mean(axis=axes, keepdims=not spec.drops)
    return x.moved(quantiles * (1.0 if spec.gain is None else spec.gain))


def _largest(step: _Step) -> Spread:
    """The quantile function of the largest of n is Q(p^(1/n)).

    Smallest ones are not told apart: both are called Maximum, and so those are not predicted.
    """
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.Maximum)
    if "min" in step.op.kind.lower():
        raise UnknownError
    ordered = np.sort(x.quantiles, axis=0)
    shares = ((np.arange(_SHARES) + 0.5) / _SHARES) ** (1 / _INDEPENDENT)
    place = np.clip(shares * _SHARES - 0.5, 0, _SHARES - 1)
    low = np.floor(place).astype(int)
    part = (place - low).reshape(-1, *[1] * x.rank)
    high = np.minimum(low + 1, _SHARES - 1)
    quantiles = ordered[low] * (1 - part) + ordered[high] * part
    axes = tuple(axis + 1 for axis in spec.axes)
    return x.moved(quantiles.max(axis=axes, keepdims=not spec.drops))


def _padded(step: _Step) -> Spread:
    """Borders are left out of account; new channels are what they are filled with."""
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.Pad)
    differing = [axis for axis in spec.axes if x.quantiles.shape[axis + 1] > 1]
    if not differing:
        return x
    if spec.value is None or not spec.amounts:
        raise UnknownError
    pairs = dict(zip(spec.axes, spec.amounts, strict=True))
    amounts = [pairs[axis] if axis in differing else (0, 0) for axis in range(x.rank)]
    if min(n for pair in amounts for n in pair) < 0:
        raise UnknownError
    _check_size(math.prod(n + sum(pair) for n, pair in zip(x.mean.shape, amounts, strict=True)))
    filled = np.pad(x.quantiles, [(0, 0), *amounts], constant_values=spec.value)
    return x.moved(filled)


def _shuffled(step: _Step) -> Spread:
    """Where channels become places, or places channels: the mean of those that meet."""
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.PixelShuffle)
    square, q = spec.factor**2, x.quantiles
    if q.shape[2] == 1 or x.rank != 4 or q.shape[3:] != (1, 1):
        raise UnknownError
    if spec.inverse:
        _check_size(q.shape[2] * square)
        tiled = np.tile(q, (1, 1, square, 1, 1)) if spec.depth_last else q.repeat(square, 2)
        return x.moved(tiled)
    channels = q.shape[2] // square
    groups = (square, channels) if spec.depth_last else (channels, square)
    return x.moved(q.reshape(*q.shape[:2], *groups, 1, 1).mean(axis=2 if spec.depth_last else 3))


_PASSING: Final[Mapping[type, Callable[[_Step], Spread | list[Spread]]]] = {
    specs.Norm: _norm,
    specs.Conv: _convolution,
    specs.ConvTranspose: _transposed_convolution,
    specs.Linear: _linear,
    specs.Add: _sum,
    specs.Mul: _product,
    specs.Rectifier: _rectified,
    specs.Pointwise: _function,
    specs.Identity: _identity,
    specs.Reshape: _reshaped,
    specs.Transpose: _transposed,
    specs.Expand: _expanded,
    specs.Gather: _picked,
    specs.Concat: _concatenated,
    specs.Split: _cut,
    specs.Average: _averaged,
    specs.Maximum: _largest,
    specs.Pad: _padded,
    specs.PixelShuffle: _shuffled,
}
