"""What comparing statistics and trying preparations gave, as data that rules can judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from bncheck.core.thresholds import W2_STEM

if TYPE_CHECKING:
    from torch import Tensor

#: The name of the data as they are, among the candidates.
GIVEN: Final = "as given"


class Direction(StrEnum):
    """What measured statistics do to the model's results."""

    BETTER = "better"
    SAME = "same"
    WORSE = "worse"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Comparison:
    """Before: running statistics; after: measured ones. None where there is nothing to go by."""

    metric: str | None
    before: float | None
    after: float | None
    direction: Direction
    samples: int
    flips: float | None = None
    loss: tuple[float, float] | None = None
    confidence: tuple[float, float] | None = None
    output_change: float | None = None
    gain: float | None = (
        None  # of results, in standard errors; positive where measured serve better
    )
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to prepare the images, and how far the first layer's statistics are from it."""

    name: str
    w2: float
    transform: Callable[[Tensor], Tensor]


def fits_better(candidates: Sequence[Candidate]) -> bool:
    """Whether another preparation explains the first layer's deviation."""
    given = next((c.w2 for c in candidates if c.name == GIVEN), 0.0)
    best = candidates[0]
    return best.name != GIVEN and best.w2 < W2_STEM and best.w2 * 3 < given
