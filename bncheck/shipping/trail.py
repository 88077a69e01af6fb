"""How far two programs are apart at each value on the way, in float64: where a difference enters.

Values are held together by name. A fold moves a value to another call: what a folded convolution
makes is what the BatchNorm behind it made before. So a value that differs from the one of its name
is held against those that follow, and a difference counts only where it reaches an output:
between a convolution and the BatchNorm that went into it the two differ by intention.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

import numpy as np

from bncheck.folding.difference import relative_error
from bncheck.shipping.sides import Array, Side

#: Values that a fold may have moved a value past, with others beside them in the order of calls.
_NEAR: Final = 4
#: One that was moved agrees better than with its namesake by this factor.
_FAR_LESS: Final = 0.01
#: This many values of a channel speak for the rest.
_SAMPLED: Final = 16
#: Bytes of values that are kept whole; of those behind some of each channel are.
_KEPT: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class Step:
    """A value that both have: its name, and the largest relative error of one of its channels.

    `counts` is whether the difference is beyond the tolerance and reaches an output.
    """

    name: str
    error: float
    counts: bool = False

    def to_dict(self) -> dict[str, object]:
        """As plain data."""
        return {"name": self.name, "max_relative_error": self.error}


def entry(steps: Sequence[Step]) -> str | None:
    """The first value that differs and does so to the end."""
    return next((step.name for step in steps if step.counts), None)


@dataclass(frozen=True, slots=True)
class _Known:
    """A value of the reference; of a large program only some of its numbers are kept."""

    shown: str
    array: Array
    whole: bool

    def error(self, value: Array) -> float:
        return relative_error(self.array, value if self.whole else sampled(value), pooled=True)


@dataclass(frozen=True, slots=True)
class _Met:
    """What a value of the other one was held against, what to call the two, and the error."""

    known: str
    shown: str
    error: float


class Trail:
    """What the reference makes on the way, which is shown to `know`, and then the other."""

    def __init__(self, reference: Side, other: Side) -> None:
        self._other, self._limit = other, 0.0
        self._results = dict(zip(other.outputs, reference.outputs, strict=False))
        self._known: dict[str, _Known] = {}
        self._order: dict[str, int] = {}
        self._room = _KEPT
        self._met: dict[str, _Met] = {}  # by the name of the other's value

    def follow(self, arrays: Sequence[Array], limit: float) -> tuple[Step, ...]:
        """A step for each value that both have, in the order of calls. Raises CannotRun.

        On the inputs on which the reference was seen; `limit` is how far two may be apart.
        """
        self._limit = limit
        self._other.precise(arrays, self._meet)
        return tuple(self._steps())

    def know(self, name: str, shown: str, value: Array) -> None:
        """A value of the reference."""
        self._room -= value.nbytes
        whole = self._room >= 0
        self._order[name] = len(self._order)
        self._known[name] = _Known(shown, value.copy() if whole else sampled(value), whole)

    def _meet(self, name: str, shown: str, value: Array) -> None:
        """A value of the other program."""
        same = self._results.get(name, name)
        if same not in self._known:
            self._join(name, shown, value)
            return
        error = self._known[same].error(value)
        label = self._known[same].shown if shown == name else shown
        self._met[name] = _Met(same, label, error)
        if error > self._limit:
            moved = {further: self._known[further].error(value) for further in self._behind(same)}
            nearest, least = min(moved.items(), key=itemgetter(1), default=(same, math.inf))
            if math.isfinite(least) and least <= max(self._limit, _FAR_LESS * error):
                self._met[name] = _Met(nearest, self._known[nearest].shown, least)

    def _behind(self, name: str) -> Iterator[str]:
        """Values of the reference that follow."""
        names, place = list(self._order), self._order[name]
        yield from names[place + 1 : place + 1 + _NEAR]

    def _join(self, name: str, shown: str, value: Array) -> None:
        """One that only the other has may be what the reference, folded, made just before."""
        for own, met in list(self._met.items())[-_NEAR:]:
            if met.error > self._limit:
                error = self._known[met.known].error(value)
                if error <= max(self._limit, _FAR_LESS * met.error):
                    del self._met[own]
                    self._met[name] = _Met(met.known, shown, error)
                    return

    def _steps(self) -> Iterator[Step]:
        """What differs by intention is left out."""
        counting = self._counting()
        for name, met in self._met.items():
            if name in counting or met.error <= self._limit:
                yield Step(met.shown, met.error, name in counting)

    def _counting(self) -> set[str]:
        """Values whose difference reaches an output; through those that only one side has."""
        readers, ends = self._other.readers(), {*self._other.outputs}
        found: set[str] = set()
        for name in reversed([*readers]):
            met = self._met.get(name)
            if met is None:
                reaches = any(reader in found for reader in readers[name])
            else:
                reaches = met.error > self._limit and (
                    name in ends or any(reader in found for reader in readers[name])
                )
            if reaches:
                found.add(name)
        return found


def sampled(array: Array) -> Array:
    """Some values of each channel (axis 1), as (values, channels)."""
    wide = np.moveaxis(array, 1, -1) if array.ndim > 1 else array.reshape(-1, 1)
    flat = wide.reshape(-1, wide.shape[-1])
    step = max(1, -(-flat.shape[0] // _SAMPLED))
    return np.array(flat[::step], dtype=np.float64)
