"""What comparing statistics and trying preparations gave, as data that rules can judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from bncheck.core.thresholds import W2_STEM

if TYPE_CHECKING:
    from torch import Tensor

#: The metrics of labels: the share of predictions that are right, and 1 - errors / variance.
ACCURACY: Final = "accuracy"
R2: Final = "R2"
#: Poor is at most this share of the way from what needs no model to all.
_POOR: Final = {ACCURACY: 0.5, R2: 0.2}
#: Losses differ by at least this many standard errors, and by this share of the larger one.
_LOSS_SIGMAS: Final = 3.0
_LOSS_SHARE: Final = 0.1
#: What fixed statistics miss must at least be so much, and this many times what batches' miss.
_FAR: Final = 0.1
_TIMES: Final = 2.0
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
    """Results in three columns; None where there is nothing to compare, or it was not requested.

    Before: running statistics; after: measured ones; batch: those of each batch of `batch_size`, as
    in train() without dropout. `gain` is that of measured ones in standard errors.
    """

    metric: str | None
    before: float | None
    after: float | None
    direction: Direction
    samples: int
    flips: float | None = None
    loss: tuple[float, float] | None = None
    confidence: tuple[float, float] | None = None
    output_change: float | None = None
    gain: float | None = None
    loss_gain: float | None = None
    chance: float = 0.0
    batch: float | None = None
    batch_size: int | None = None
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def best(self) -> float | None:
        """The better result of the fixed statistics."""
        return max((v for v in (self.before, self.after) if v is not None), default=None)

    @property
    def usual(self) -> bool:
        """Whether 1 is the best that there is, as of accuracy and R2."""
        return self.metric in _POOR

    @property
    def poor(self) -> bool:
        """Whether neither fixed statistics serve: hardly better than the commonest answer."""
        if self.metric not in _POOR or self.best is None:
            return False
        skill = (self.best - self.chance) / max(1 - self.chance, 1e-12)
        return skill <= _POOR[self.metric]

    @property
    def leaning(self) -> Direction:
        """The direction, and by the loss where as many answers are right with either statistics.

        The loss is a mean over all samples, so it tells where hardly an answer is at the edge.
        """
        if self.direction is not Direction.SAME or self.loss is None or self.loss_gain is None:
            return self.direction
        saved = self.loss[0] - self.loss[1]
        if abs(self.loss_gain) < _LOSS_SIGMAS or abs(saved) < _LOSS_SHARE * max(self.loss):
            return Direction.SAME
        return Direction.BETTER if saved > 0 else Direction.WORSE

    @property
    def restored(self) -> bool:
        """Whether measured statistics leave at most half of the errors."""
        if self.before is None or self.after is None or not self.usual:
            return False
        return (1 - self.after) * _TIMES <= 1 - self.before

    @property
    def batch_serves_far_better(self) -> bool:
        """Whether batch statistics serve as no fixed ones do."""
        return self.would_serve_far_better(self.batch)

    def would_serve_far_better(self, batch: float | None) -> bool:
        """Whether such a result with batch statistics is beyond what fixed ones reach."""
        if batch is None or self.best is None or not self.usual or self.after is None:
            return False
        return batch - self.best >= _FAR and (1 - batch) * _TIMES <= 1 - self.best

    def to_dict(self) -> dict[str, object] | None:
        """Results of JSON; None without labels."""
        if self.metric is None:
            return None
        return {
            "metric": self.metric,
            "running": self.before,
            "measured": self.after,
            "batch": self.batch,
            "batch_size": self.batch_size,
            "samples": self.samples,
        }


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to prepare the data, and how far the first layer's statistics are from it.

    A `usual` one is in use; one that was fitted has `free` numbers. It is of the input at `place`,
    of `several`, which `layer` reads.
    """

    name: str
    w2: float
    transform: Callable[[Tensor], Tensor]
    usual: bool = True
    free: float = 0.5
    layer: str = ""
    place: int = 0
    several: bool = False


def fits_better(candidates: Sequence[Candidate]) -> bool:
    """Whether another preparation explains the first layer's deviation."""
    given = next((c.w2 for c in candidates if c.name == GIVEN), 0.0)
    best = candidates[0]
    return best.name != GIVEN and best.w2 < W2_STEM and best.w2 * 3 < given
