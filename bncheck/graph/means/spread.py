"""What is known of a value on its way: the distribution of each of its numbers.

Kept as quantiles, one set for each channel (or for each place where they differ); axes along which
nothing differs have size 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist
from typing import Final

import numpy as np

from bncheck.graph.dataflow import Floats, Graph, Op, Shape

#: Quantiles of each distribution, at the midpoints of this many equal shares.
SHARES: Final = 64


#: A value has at most this many distributions, and a tensor this many positions to follow.
_MOST_VALUES: Final = 1 << 16


def _normal_quantiles() -> Floats:
    points = np.array([NormalDist().inv_cdf((i + 0.5) / SHARES) for i in range(SHARES)])
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


def joined(parts: Sequence[Spread], quantiles: Floats) -> Spread:
    """A new value that was made of these."""
    norms = dict.fromkeys(name for part in parts for name in part.norms)
    maps = dict.fromkeys(name for part in parts for name in part.maps)
    mixed = any(part.mixed for part in parts)
    return Spread(quantiles, object(), tuple(norms), tuple(maps), mixed)


_POINTS: Final = _normal_quantiles()


def gaussian(mean: Floats, var: Floats) -> Floats:
    """Quantiles of N(mean, var) of each element; both have one shape."""
    check_size(mean.size)
    points = _POINTS.reshape(SHARES, *[1] * mean.ndim)
    quantiles = np.asarray(points * np.sqrt(np.maximum(var, 0.0)))
    quantiles += mean
    return quantiles


def check_size(values: int) -> None:
    """Refuse a value of too many distributions before it is made."""
    if values > _MOST_VALUES:
        raise UnknownError


def along(numbers: Floats, axis: int, size: int) -> Floats | None:
    """One number for each place of an axis, averaged over the others."""
    axis %= numbers.ndim
    flat = numbers.mean(axis=tuple(i for i in range(numbers.ndim) if i != axis))
    if flat.size not in (1, size):
        return None
    return np.broadcast_to(flat, size).copy()


@dataclass(frozen=True)
class InPieces:
    """Fixed numbers that may be too many to hold: `pieces` gives some rows of the first axis each.

    Once begun, it raises UnknownError where they cannot be read.
    """

    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[Floats]]

    @property
    def size(self) -> int:
        """How many numbers they are."""
        return math.prod(self.shape)

    def whole(self) -> Floats:
        """All of them."""
        pieces = list(self.pieces())
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


@dataclass(frozen=True)
class Step:
    """A call, and what is known when it runs; `side` as in predicted_means."""

    graph: Graph
    op: Op
    known: Mapping[str, Spread]
    weights: Callable[[str], Floats | InPieces | None]
    side: int | None = None

    def spread(self, slot: int = 0) -> Spread:
        """That of an input."""
        found = self.known.get(self.op.input(slot) or "")
        if found is None:
            raise UnknownError
        return found

    def weight(self, slot: int) -> Floats:
        """The numbers of an input that has fixed ones."""
        return self.in_pieces(slot).whole()

    def in_pieces(self, slot: int) -> InPieces:
        """The same, for who needs no more than some rows at a time."""
        found = self.weights(self.op.input(slot) or "")
        if found is None:
            raise UnknownError
        if isinstance(found, InPieces):
            return found
        return InPieces(found.shape, partial(iter, (found,)))

    def has(self, slot: int) -> bool:
        """Whether there is such an input."""
        return self.op.input(slot) is not None

    def sizes(self, name: str | None) -> tuple[int, ...]:
        """A value's shape, 1 for a size that is not known."""
        shape: Shape | None = self.graph.shape(name)
        if shape is None:
            raise UnknownError
        return tuple(size if isinstance(size, int) else 1 for size in shape)
