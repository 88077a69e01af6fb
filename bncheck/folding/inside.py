"""The values on the way through a program and through its fold, side by side.

Outputs alone would not do: a unit that is dead on the inputs tried hides wrong weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from bncheck.folding.difference import Difference, Output
from bncheck.folding.result import Parity

#: So many values of a channel speak for all of it: a wrong weight or bias shows in each of them.
_SAMPLED = 256


def thinned(array: Output) -> Output:
    """Some values of each channel (axis 1), as (values, channels)."""
    wide = np.moveaxis(array, 1, -1) if array.ndim > 1 else array.reshape(-1, 1)
    flat = wide.reshape(-1, wide.shape[-1])
    step = max(1, -(-flat.shape[0] // _SAMPLED))
    return np.array(flat[::step], dtype=np.float64)


@dataclass
class Inside:
    """Where the values of the fold differ from those of the original, by name, in order."""

    difference: Difference
    names: list[str] = field(default_factory=list)

    @property
    def wants_more(self) -> bool:
        """Whether other inputs may tell more than those seen."""
        return not self.difference.batches or self.difference.needs_more

    def add(
        self,
        batch: int,
        reference: Mapping[str, Output],
        folded: Mapping[str, Output],
        original: Mapping[str, Output],
    ) -> None:
        """Take in thinned values: of the original in float64, of the fold in float64, as written.

        In float64, since the question is whether the new numbers are right, not how they round.
        """
        if not self.difference.batches:
            self.names = [n for n in reference if n in folded and n in original]
        sides = (reference, folded, original)
        self.difference.add(batch, *([side[name] for name in self.names] for side in sides))

    @property
    def first(self) -> str | None:
        """The first value that is another one."""
        place = self.difference.first_bad()
        return None if place is None else self.names[place]

    def judge(self, outputs: Parity) -> Parity:
        """The verdict on the outputs, unless the values on the way speak against it."""
        return replace(outputs, excess=max(outputs.excess, self.difference.parity().excess))
