"""Which kind each sample is of: its class, what its map shows most, or what the model takes it for.

Training whose batches are not mixed leaves statistics of a few kinds of samples, and to see that
the kinds must be known. Labels say them where they are there; a model that classifies says them,
too. Batches come one by one, so what needs all of them is taken from the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bncheck.measuring.answers import scores_in, tensors_in
from bncheck.measuring.labels import MOST_CLASSES, class_labels

if TYPE_CHECKING:
    from torch import Tensor

#: Numbers to be met are parted in so many ranges.
_RANGES: Final = 6
#: Maps of so many channels are images more often than classes.
_COLOURS: Final = 3


class Kinds:
    """The kinds of the samples of one pass."""

    def __init__(self) -> None:
        self._edges: Tensor | None = None
        self._background: int | None = None

    def of(self, target: Any, output: Any, samples: int) -> Tensor | None:
        """A number for each sample, (N,); None where nothing tells."""
        if target is None:
            return self._predicted(output, samples)
        known = class_labels(target, samples)
        if known is not None:
            return known
        found = next(tensors_in(target), None)
        if found is None or len(found) != samples:
            return None
        if found.is_floating_point():
            return self._ranges(found.reshape(samples, -1).double().mean(dim=1))
        return self._shown(found.reshape(samples, -1).long())

    def _predicted(self, output: Any, samples: int) -> Tensor | None:
        scores = next((s for s in scores_in(output) if len(s) == samples), None)
        if scores is None or scores.ndim < 2 or not 2 <= scores.shape[1] < MOST_CLASSES:
            return None
        if scores.ndim > 3 and scores.shape[1] == _COLOURS:
            return None
        chosen = scores.argmax(dim=1)
        return chosen if chosen.ndim == 1 else self._shown(chosen.reshape(samples, -1))

    def _shown(self, places: Tensor) -> Tensor | None:
        """What a map shows most, apart from what all maps together show most."""
        import torch

        inside = (places >= 0) & (places < MOST_CLASSES)
        if not bool(inside.any()):
            return None
        if self._background is None:
            self._background = int(places[inside].bincount().argmax())
        kept = inside & (places != self._background)
        counts = torch.zeros(len(places), int(places.max()) + 1, device=places.device)
        counts.scatter_add_(1, places.clamp_min(0), kept.float())
        return torch.where(kept.any(dim=1), counts.argmax(dim=1), self._background)

    def _ranges(self, values: Tensor) -> Tensor | None:
        import torch

        if not bool(values.isfinite().all()):
            return None
        if self._edges is None:
            shares = torch.linspace(0, 1, _RANGES + 1, dtype=values.dtype, device=values.device)
            self._edges = values.quantile(shares[1:-1])
        return torch.bucketize(values, self._edges)
