"""A product of a value and a weight, whatever axes it sums over: matrices, heads, Einstein sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from bncheck.graph.weighted import Axes, Weighted

#: Which axis of x, and which of the result, an axis of a weight is; counted from the end.
Side: TypeAlias = "tuple[int | None, int | None]"


@dataclass(frozen=True)
class Linear(Weighted):
    """alpha * x weight + beta * bias, a product that sums over some axes of both.

    `sides` says what each axis of the weight is: (i, None) is summed over, (None, o) is new in the
    result, (i, o) is in both (a weight of its own for each head), (None, None) has size 1. The
    other axes of x keep their order.
    """

    sides: tuple[Side, ...]
    alpha: float = 1.0
    beta: float = 1.0
    unit = "features"

    @classmethod
    def matrix(cls, *, output_first: bool, alpha: float = 1.0, beta: float = 1.0,
               axes: tuple[int, int] = (-1, -1)) -> Linear:  # fmt: skip
        """x @ weight, or x @ weight.T; `axes`: of the features in x and in the result."""
        sides: tuple[Side, ...] = ((axes[0], None), (None, axes[1]))
        return cls(sides[::-1] if output_first else sides, alpha, beta)

    @cached_property
    def order(self) -> list[int]:
        """The axes of the weight: of size 1, in both, new in the result, summed over."""
        kinds = [(i is not None, o is not None) for i, o in self.sides]
        order = [(False, False), (True, True), (False, True), (True, False)]
        return sorted(range(len(kinds)), key=lambda place: order.index(kinds[place]))

    @property
    def inputs(self) -> tuple[int, ...]:
        """The axes of x that the weight has, in that order."""
        return tuple(i for i, _ in (self.sides[place] for place in self.order) if i is not None)

    @property
    def outputs(self) -> tuple[int, ...]:
        """The axes of the result that the weight has, in that order."""
        return tuple(o for _, o in (self.sides[place] for place in self.order) if o is not None)

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """How many groups, outputs of one, and inputs of one a weight of that shape has."""
        pairs = list(zip(self.sides, shape, strict=True))
        return (
            math.prod(size for (i, o), size in pairs if i is not None and o is not None),
            math.prod(size for (i, o), size in pairs if i is None and o is not None),
            math.prod(size for (i, o), size in pairs if i is not None and o is None),
        )

    def axes_of(self, weight: int, result: int) -> tuple[Axes, Axes]:
        """Those of x and of the result that the weight has."""
        return self.inputs, self.outputs

    def channels_of(self, weight: Sequence[int]) -> tuple[int, int] | None:
        """Of all groups."""
        groups, outputs, inputs = self.sizes(weight)
        return groups * inputs, groups * outputs

    @property
    def axis(self) -> int | None:
        """Where this is a product with a matrix along one axis that stays in its place: that."""
        kept = [side for side in self.sides if side != (None, None)]
        places = self.inputs + self.outputs
        return places[0] if len(kept) == len(places) == 2 and len(set(places)) == 1 else None
