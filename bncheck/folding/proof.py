"""Is the fold the same function? The original, computed in float64, is the judge.

Inputs are fresh and signed, at two batch sizes where the program accepts them. Outputs alone would
not do: a unit that is dead on the inputs tried hides wrong weights. So the values on the boundary
of what was changed (Solution.boundary) are compared, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np

from bncheck.folding.difference import ENOUGH_VALUES, Difference, Output
from bncheck.folding.result import Parity

Inputs = TypeVar("Inputs")

_BATCHES = (2, 3)
#: How many more inputs are tried where the usual ones were all refused.
_PATIENCE = 8
#: This many values of a channel speak for all of it: a wrong weight or bias shows in each of them.
_SAMPLED = 256


class RefusedError(RuntimeError):
    """The program does not take such inputs: their sizes or values, which need not show in it."""


class SideBySide(Protocol[Inputs]):
    """A program and its fold, which can be run on the same inputs.

    What it returns comes in threes: of the original in float64, of the fold, and of the original as
    written. Intermediate values are sampled, by their names in the original, and those of the fold
    are in float64, too, since the question is whether its numbers are right, not how they round.
    """

    @property
    def tolerance(self) -> float:
        """The relative error that rounding in its narrowest dtype explains."""

    @property
    def has_free_batch(self) -> bool:
        """Whether the first axis of an input may have any size."""

    @property
    def examples(self) -> Sequence[Inputs]:
        """Inputs that came with the program, for one that takes no fresh ones."""

    def fresh(self, batch: int) -> Inputs:
        """Random inputs, other ones each time; `batch` is the size of free first axes."""

    def batch_of(self, inputs: Inputs) -> int:
        """How many samples these inputs hold."""

    def outputs(self, inputs: Inputs) -> tuple[list[Output], list[Output], list[Output]]:
        """The floating outputs. Raises RefusedError."""

    def intermediates(self, inputs: Inputs) -> Sequence[Mapping[str, Output]]:
        """The values that must be equal although what makes them was changed."""

    def maker_of(self, name: str | None) -> str | None:
        """What people call the part of the original that makes a value."""


def prove(
    sides: SideBySide[Inputs], tolerance: float | None = None, extra: Sequence[Inputs] = ()
) -> Parity:
    """Compare on fresh inputs, and on those in `extra`. Raises RefusedError where all are."""
    limit = sides.tolerance if tolerance is None else tolerance
    outputs, inside = Difference(limit), _Intermediates(Difference(limit))
    first = _BATCHES if sides.has_free_batch else ()
    fresh = map(sides.fresh, itertools.chain(first, itertools.repeat(ENOUGH_VALUES // 4)))
    usual = [*itertools.islice(fresh, max(1, len(first))), *extra]
    refused: RefusedError | None = None
    spare = (inputs for inputs in sides.examples if not outputs.batches)
    more = itertools.chain(spare, itertools.islice(fresh, ENOUGH_VALUES))
    for tried, inputs in enumerate(itertools.chain(usual, more)):
        if tried >= len(usual) and not outputs.needs_more and not inside.wants_more:
            break
        if tried >= len(usual) + _PATIENCE and not outputs.batches:
            break
        try:
            results = sides.outputs(inputs)
        except RefusedError as error:  # left out where other inputs are accepted
            refused = error
            continue
        batch = sides.batch_of(inputs)
        outputs.add(batch, *results)
        if inside.wants_more:
            inside.add(batch, *sides.intermediates(inputs))
    if refused is not None and not outputs.batches:
        raise refused
    outputs.refuse_nothing()
    parity = outputs.parity()
    parity = replace(parity, excess=max(parity.excess, inside.difference.parity().excess))
    return parity if parity.holds else replace(parity, parts_at=sides.maker_of(inside.first))


@dataclass
class _Intermediates:
    """Where the values on the way differ, by name, in order."""

    difference: Difference
    names: list[str] = field(default_factory=list)

    @property
    def wants_more(self) -> bool:
        """Whether other inputs may tell more than those seen."""
        return not self.difference.batches or self.difference.needs_more

    def add(self, batch: int, *sides: Mapping[str, Output]) -> None:
        reference, folded, original = sides
        if not self.difference.batches:
            self.names = [n for n in reference if n in folded and n in original]
        self.difference.add(batch, *([side[name] for name in self.names] for side in sides))

    @property
    def first(self) -> str | None:
        """The first value that is another one."""
        place = self.difference.first_bad()
        return None if place is None else self.names[place]


def sampled(array: Output) -> Output:
    """Some values of each channel (axis 1), as (values, channels)."""
    wide = np.moveaxis(array, 1, -1) if array.ndim > 1 else array.reshape(-1, 1)
    flat = wide.reshape(-1, wide.shape[-1])
    step = max(1, -(-flat.shape[0] // _SAMPLED))
    return np.array(flat[::step], dtype=np.float64)
