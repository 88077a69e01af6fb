"""Who takes what of a map that is pulled through a sum or a product: docs/folding.md, "Sums"."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import TypeAlias

from bncheck.graph.dataflow import Op
from bncheck.graph.specs import Add

#: Where several sums lie between, the ways of the first few are tried, and at most this many.
_MAX_SUMS = 3
_MAX_ATTEMPTS = 30


class Shift(Enum):
    """a (f x + g y) + t = f (a x + t1 / f) + g (a y + t2 / g) for all t1 + t2 = t.

    The value is the pair of shares, t1 / t and t2 / t.
    """

    FIRST = (1.0, 0.0)
    SECOND = (0.0, 1.0)
    HALVES = (0.5, 0.5)


class ConstantWay(Enum):
    """What becomes of a constant c where the map a v + t of v = x + c goes on to x.

    ABSORBED: the call goes, and x takes a x + (a c + t). SCALED: c becomes a c, and x takes the
    shift, a x + t. SHIFTED: c becomes a c + t, and x takes a x.
    """

    ABSORBED = "absorbed"
    SCALED = "scaled"
    SHIFTED = "shifted"


class Factor(Enum):
    """a (x y) = (a x) y = x (a y): which operand of a product takes the scale, by its slot."""

    FIRST = 0
    SECOND = 1


Way: TypeAlias = "Shift | ConstantWay | Factor"
#: By the place of the sum.
Ways: TypeAlias = Mapping[int, Way]


def combinations(sums: Mapping[int, type[Way]]) -> Iterator[Ways]:
    """All ways for the first few sums but the first of each, which is the usual one."""
    some = list(sums)[:_MAX_SUMS]
    choices: list[list[Way]] = [list(sums[index]) for index in some]
    for ways in itertools.islice(itertools.product(*choices), 1, _MAX_ATTEMPTS):
        yield dict(zip(some, ways, strict=True))


def shares_of(op: Op, spec: Add, fixed: list[bool], way: Way | None) -> tuple[float, float]:
    """What part of the shift each operand takes; `fixed` are the constants among them."""
    if any(fixed):
        first_takes_it = fixed[0] == (way is ConstantWay.SHIFTED)
        return Shift.FIRST.value if first_takes_it else Shift.SECOND.value
    if op.inputs[0] == op.inputs[1] and spec.factors == (1.0, 1.0):
        return Shift.HALVES.value  # x + x: both readers must want the same of x
    return way.value if isinstance(way, Shift) else Shift.FIRST.value
