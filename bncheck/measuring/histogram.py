"""--shape: the distribution of a layer's normalised inputs, in 64 bins a channel.

Moments are blind to shape: two narrow peaks and a normal distribution can share mean and variance.
So z = (x - running_mean) / sigma_r is also counted in 64 bins over [-4, 4], ends open. W1, the area
between the cumulative distributions of z and of a normal one with the same moments... is what W2
does not see. Counts merge exactly by adding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bncheck.measuring.deviation import Deviation
from bncheck.measuring.distributed import Processes
from bncheck.measuring.norms import TrackingNorm
from bncheck.measuring.reduction import portions

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float64]

BINS: Final = 64
LIMIT: Final = 4.0
#: W1 beyond what the moments explain, and W2 beyond what the bulk explains: section 3.2.
_SHAPE_MARGIN: Final = 0.1
_OUTLIER_FACTOR: Final = 3.0


@dataclass(frozen=True)
class Shape:
    """Counts by channel and bin, and what they say beside the moments."""

    counts: NDArray[np.int64]
    w1: Floats
    odd: NDArray[np.bool_]
    outliers: NDArray[np.bool_]

    def to_dict(self) -> dict[str, object]:
        """As plain data."""
        return {
            "bins": BINS,
            "range": [-LIMIT, LIMIT],
            "w1": float(np.sqrt(np.mean(self.w1**2))),
            "odd_shape_channels": [int(c) for c in np.flatnonzero(self.odd)],
            "outlier_channels": [int(c) for c in np.flatnonzero(self.outliers)],
            "counts": self.counts.sum(axis=0).tolist(),
        }


class ShapeWatch:
    """A context in which the layers' inputs are counted; does nothing unless wanted."""

    def __init__(self, norms: Sequence[TrackingNorm], wanted: bool, processes: Processes) -> None:
        self._norms = norms if wanted else ()
        self._processes = processes
        self._handles: list[Any] = []
        self._counts: dict[str, Tensor] = {}

    def __enter__(self) -> ShapeWatch:
        self._handles = [
            norm.module.register_forward_pre_hook(self._hook(norm)) for norm in self._norms
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def of(self, name: str, held: Deviation | None) -> Shape | None:
        """The shape of one layer's inputs, over all processes."""
        if not self._norms or held is None:
            return None
        mine = self._counts.get(name)
        total = self._processes.summed(None if mine is None else mine.cpu().numpy())
        return None if total is None else _shape(total.reshape(-1, BINS), held)

    def _hook(self, norm: TrackingNorm) -> Any:
        sd = (norm.var.double() + float(getattr(norm.module, "eps", 1e-5))).sqrt()
        bins = Bins(norm.mean.double(), sd)

        def before(_: Any, args: tuple[Any, ...]) -> None:
            x = args[0].detach()
            view = [1, norm.channels, *[1] * (x.ndim - 2)]
            counts = self._counts.get(norm.name)
            self._counts[norm.name] = bins.count(x, view, counts)

        return before


class Bins:
    """64 equal bins of z = (x - mean) / sd over [-4, 4] for every channel, ends open."""

    def __init__(self, mean: Tensor, sd: Tensor) -> None:
        import torch

        scale = sd.reciprocal() * (BINS / 2 / LIMIT)
        self._shift = (BINS / 2 - mean * scale).float()
        self._scale = scale.float()
        self._channels = mean.numel()
        self._base = torch.arange(self._channels, device=mean.device, dtype=torch.int32) * BINS

    def count(self, x: Tensor, view: Sequence[int], total: Tensor | None) -> Tensor:
        """Add the values of `x`, to which (C,) fits as `view`, to counts of (C * 64,)."""
        import torch

        shift, scale = self._shift.view(*view), self._scale.view(*view)
        base = self._base.view(*view)
        if total is None:
            total = torch.zeros(self._channels * BINS, dtype=torch.int64, device=base.device)
        for part in portions(x):
            place = torch.addcmul(shift, part.float(), scale).clamp_(0, BINS - 1).int().add_(base)
            total += torch.bincount(place.flatten(), minlength=self._channels * BINS)
        return total


def _shape(counts: Any, held: Deviation) -> Shape:
    """W1 between the counts and a standard normal, which is what the running statistics promise."""
    edges = np.linspace(-LIMIT, LIMIT, BINS + 1)
    cumulative = np.cumsum(counts, axis=1)[:, :-1] / np.maximum(counts.sum(axis=1), 1)[:, None]
    width = edges[1] - edges[0]
    w1 = np.abs(cumulative - _normal_cdf(edges[1:-1])).sum(axis=1) * width
    w2 = held.channels
    return Shape(counts, w1, w1 > w2 + _SHAPE_MARGIN, w2 > _OUTLIER_FACTOR * w1 + _SHAPE_MARGIN)


def _normal_cdf(x: Floats) -> Floats:
    from math import erf, sqrt

    return np.array([0.5 * (1 + erf(float(value) / sqrt(2))) for value in x])
