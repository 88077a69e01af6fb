"""What operators do along axes, which torch and ONNX have alike: pick, cut, average, pad.

A size that is not known is a name, or what torch has for one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bncheck.graph.dataflow import Shape
from bncheck.graph.specs import Average, Chosen, Gather, Kernel, Maximum, Pad, Split

#: More places than these are not worth counting out, and a file can ask for any number of them.
_MOST_PLACES = 1 << 20

Places = NDArray[np.int64]


def picked(
    shape: Sequence[Any], axes: Iterable[int], pick: Callable[[Places, int], Any], times: int = 1
) -> Gather:
    """Elements picked along axes: `pick(places, i)` of the places along the i-th of them.

    The result has at most `times` as many. Where a size is not known, neither are the places.
    """
    rows = []
    for i, axis in enumerate(axes):
        size = shape[axis % len(shape)]
        known = isinstance(size, int) and 0 <= size * times <= _MOST_PLACES
        places = tuple(int(place) for place in pick(np.arange(size), i)) if known else None
        rows.append((axis % len(shape), places))
    return Gather(tuple(rows))


def tiled(shape: Sequence[Any], counts: Sequence[int]) -> Gather:
    """The whole, repeated along each axis."""
    axes = [axis for axis, count in enumerate(counts) if count != 1]
    return picked(shape, axes, lambda places, i: np.tile(places, counts[axes[i]]), max(counts))


def selected(shape: Sequence[Any], axis: int, indices: Iterable[Any] | None) -> Gather:
    """The elements of these indices along an axis; None: they are not known."""
    size = shape[axis]
    if indices is None or not isinstance(size, int) or size < 1:
        return Gather(((axis, None),))
    return Gather(((axis, tuple(int(index) % size for index in indices)),))


def unfolded(spec: Gather, table: Shape) -> Gather:
    """The same by a table of positions of that shape, which a list need not be."""
    return spec if len(table) == 1 else replace(spec, unfolds=tuple(table))


def taken(shape: Shape, places: Shape, axis: int, numbers: Any = None) -> Gather | None:
    """What torch.gather gives for indices of the shape `places`.

    Along `axis` any elements, along the other axes the first ones. `numbers` are the indices where
    they are known; they may have a size of 1 along axes where they are repeated.
    """
    pairs = list(enumerate(zip(shape, places, strict=False)))
    row = None if numbers is None else _row(np.asarray(numbers), shape, places, axis)
    picks: list[tuple[int, tuple[int, ...] | None]] = [(axis, row)]
    for other, (size, number) in pairs:
        if other == axis or size == number:
            continue
        known = isinstance(size, int) and isinstance(number, int)
        if known and int(number) > int(size):
            return None
        picks.append((other, tuple(range(int(number))) if known else None))
    if len(shape) != len(places):
        return None
    if row is not None:
        return Gather(tuple(picks))
    sized = isinstance(shape[axis], int) and isinstance(places[axis], int)
    return Chosen(tuple(picks), varies=sized and numbers is not None)


def _row(numbers: Places, shape: Shape, places: Shape, axis: int) -> tuple[int, ...] | None:
    """The indices along an axis where they are the same at all places of the others."""
    size, length = shape[axis], places[axis]
    if not isinstance(size, int) or not isinstance(length, int) or not 0 < length <= _MOST_PLACES:
        return None
    if numbers.dtype.kind not in "iu" or numbers.ndim > len(places) or not numbers.size:
        return None
    whole = numbers.reshape((*(1,) * (len(places) - numbers.ndim), *numbers.shape))
    rows = np.moveaxis(whole, axis, -1).reshape(-1, whole.shape[axis])
    if rows.shape[1] not in (1, length) or np.any(rows != rows[0]):
        return None
    return tuple(int(index) % size for index in np.broadcast_to(rows[0], length))


def cut(axis: int, sizes: Sequence[Any]) -> Split | None:
    """Parts of these sizes, one after the other."""
    if not all(isinstance(size, int) for size in sizes):
        return None
    ends = itertools.accumulate(sizes, initial=0)
    return Split(axis, tuple(slice(start, end) for start, end in itertools.pairwise(ends)))


def average(axes: Sequence[int], padded: bool = False, kernel: Kernel | None = None) -> Average:
    """Windows of equal weights; `padded`: zeros around the input are counted as well."""
    return Average(tuple(axes), None if padded else 1.0, kernel=kernel)


def reduced(
    shape: Sequence[Any], axes: Iterable[int] | None, *, drops: bool, sums: bool = False
) -> Average:
    """The mean or the sum over axes, over all by default."""
    chosen = _chosen(shape, axes)
    sizes = [shape[axis] for axis in chosen]
    known = all(isinstance(size, int) for size in sizes)
    total = float(math.prod(sizes)) if known else None
    return Average(chosen, total if sums else 1.0, drops)


def largest(shape: Sequence[Any], axes: Iterable[int] | None, *, drops: bool) -> Maximum:
    """The largest or the smallest along axes, along all by default."""
    return Maximum(_chosen(shape, axes), drops)


def _chosen(shape: Sequence[Any], axes: Iterable[int] | None) -> tuple[int, ...]:
    rank = len(shape)
    return tuple(range(rank)) if axes is None else tuple(sorted(int(axis) % rank for axis in axes))


def padded(amounts: Mapping[int, tuple[int, int]], value: float | None) -> Pad:
    """New elements before and behind along axes, copies of old ones or `value`.

    A negative amount cuts, which an affine map passes as it does a copy.
    """
    found = {axis: pair for axis, pair in amounts.items() if any(size != 0 for size in pair)}
    fills = value is not None and any(size > 0 for pair in amounts.values() for size in pair)
    return Pad(tuple(found), value if fills else None, tuple(found.values()))
