"""Calls that move numbers about, join, cut and pad."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from bncheck.graph import specs
from bncheck.graph.means.functions import aligned
from bncheck.graph.means.spread import SHARES, Spread, Step, UnknownError, check_size, joined

_MOST_PLACES: Final = 1 << 22


def identity(step: Step) -> Spread:
    """The same numbers."""
    return step.spread()


def reshaped(step: Step) -> Spread:
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
    check_size(places.size)
    return x.moved(x.quantiles.reshape(SHARES, -1)[:, places])


def transposed(step: Step) -> Spread:
    """The axes in another order."""
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.Transpose)
    return x.moved(x.quantiles.transpose(0, *(axis + 1 for axis in spec.order)))


def expanded(step: Step) -> Spread:
    """New axes in front; along the others nothing differs."""
    x = step.spread()
    rank = len(step.sizes(step.op.outputs[0]))
    return x.moved(aligned(x.quantiles, rank, False))


def picked(step: Step) -> Spread:
    """Elements picked along axes."""
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.Gather)
    if spec.unfolds:
        raise UnknownError
    quantiles = x.quantiles
    for axis, places in spec.picks:
        if quantiles.shape[axis + 1] > 1:
            if places is None:
                raise UnknownError
            check_size(quantiles[0].size // quantiles.shape[axis + 1] * len(places))
            quantiles = quantiles.take(places, axis=axis + 1)
    return x.moved(quantiles)


def concatenated(step: Step) -> Spread:
    """Inputs joined along an axis, each with its own distributions."""
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
        check_size(sum(sizes) * max(q[0].size // q.shape[axis] for q in quantiles))
        quantiles = [q.repeat(n, axis) if q.shape[axis] == 1 else q
                     for q, n in zip(quantiles, sizes, strict=True)]  # fmt: skip
    common = np.broadcast_shapes(*((*q.shape[:axis], 1, *q.shape[axis + 1 :]) for q in quantiles))
    wide = [np.broadcast_to(q, (*common[:axis], q.shape[axis], *common[axis + 1 :]))
            for q in quantiles]  # fmt: skip
    check_size(sum(q[0].size for q in wide))
    return joined(parts, np.concatenate(wide, axis))


def cut(step: Step) -> list[Spread]:
    """Parts of an axis."""
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.Split)
    axis, found = spec.axis + 1, []
    for part in spec.parts:
        whole = x.quantiles.shape[axis] == 1
        piece = x.quantiles if whole else x.quantiles[(slice(None),) * axis + (part,)]
        found.append(x.moved(piece.squeeze(axis) if spec.drops else piece))
    return found


def padded(step: Step) -> Spread:
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
    check_size(math.prod(n + sum(pair) for n, pair in zip(x.mean.shape, amounts, strict=True)))
    filled = np.pad(x.quantiles, [(0, 0), *amounts], constant_values=spec.value)
    return x.moved(filled)


def shuffled(step: Step) -> Spread:
    """Where channels become places, or places channels: the mean of those that meet."""
    spec, x = step.op.spec, step.spread()
    assert isinstance(spec, specs.PixelShuffle)
    square, q = spec.factor**2, x.quantiles
    if q.shape[2] == 1 or x.rank != 4 or q.shape[3:] != (1, 1):
        raise UnknownError
    if spec.inverse:
        check_size(q.shape[2] * square)
        tiled = np.tile(q, (1, 1, square, 1, 1)) if spec.depth_last else q.repeat(square, 2)
        return x.moved(tiled)
    channels = q.shape[2] // square
    groups = (square, channels) if spec.depth_last else (channels, square)
    return x.moved(q.reshape(*q.shape[:2], *groups, 1, 1).mean(axis=2 if spec.depth_last else 3))
