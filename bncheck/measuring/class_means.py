"""Layers side by side in one array, and what the classes of the samples are in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from bncheck.measuring.messages import Contribution

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from bncheck.measuring.distributed import Processes

    Floats = NDArray[np.float64]

#: Bytes of all ranks' class means together that are still exchanged.
_MOST_BYTES: Final = 1 << 28

#: Layers side by side, each with its number of channels.
Layout: TypeAlias = tuple[tuple[str, int], ...]


def apart(layout: Layout, numbers: Floats) -> Iterator[tuple[str, Floats]]:
    """Each layer's channels of (..., C) for layers side by side."""
    start = 0
    for name, channels in layout:
        yield name, numbers[..., start : start + channels]
        start += channels


@dataclass(frozen=True, slots=True)
class ClassMean:
    """Mean and variance of one class in a layer, (C,) each, over a number of images."""

    mean: Floats
    images: int
    var: Floats

    def merge(self, other: ClassMean) -> ClassMean:
        """Of the images of both (Chan, Golub, LeVeque 1979)."""
        images = self.images + other.images
        share, d = other.images / images, other.mean - self.mean
        var = self.var + (other.var - self.var) * share + d**2 * share * (1 - share)
        return ClassMean(self.mean + d * share, images, var)


#: By layer and class.
Classes: TypeAlias = Mapping[str, Mapping[int, ClassMean]]


def of_all_ranks(mine: Classes, processes: Processes) -> Classes:
    """The classes over the batches of all ranks; none where they take too much to be exchanged."""
    if processes.size == 1:
        return mine
    parts = {
        layer: np.stack([[label, one.images, *one.mean, *one.var] for label, one in found.items()])
        for layer, found in mine.items()
    }
    size = sum(rows.nbytes for rows in parts.values())
    sizes = processes.told("the size of the classes", str(size).encode())
    if sum(map(int, sizes)) > _MOST_BYTES:
        return {}
    merged: dict[str, dict[int, ClassMean]] = {}
    for other in processes.exchange("the classes", Contribution(parts)):
        for layer, rows in other.parts.items():
            known = merged.setdefault(layer, {})
            for row in rows:
                one = _one(row)
                before = known.get(int(row[0]))
                known[int(row[0])] = one if before is None else before.merge(one)
    return merged


def _one(row: Floats) -> ClassMean:
    mean, var = np.split(row[2:], 2)
    return ClassMean(mean, int(row[1]), var)


class ClassMeans:
    """Per class the means and mean squares about the pivots, over batches; layers side by side."""

    def __init__(self) -> None:
        self._sums: dict[Layout, dict[int, tuple[Floats, int]]] = {}
        self._pivots: dict[Layout, Floats] = {}

    def add(self, layout: Layout, m: Tensor, q: Tensor, labels: Tensor, pivot: Floats) -> None:
        """Add a batch: (N, C) means and mean squares about the pivot, (N,) labels."""
        import torch

        self._pivots[layout] = pivot
        known = self._sums.setdefault(layout, {})
        found, places = torch.unique(labels, return_inverse=True)
        totals = torch.zeros((2, len(found), m.shape[1]), dtype=m.dtype, device=m.device)
        for total, numbers in zip(totals, (m, q), strict=True):
            total.index_add_(0, places, numbers)
        counts = places.bincount(minlength=len(found)).tolist()
        sums = totals.transpose(0, 1).cpu().numpy()
        for label, both, count in zip(found.tolist(), sums, counts, strict=True):
            before = known.get(label)
            known[label] = (
                (both, count) if before is None else (before[0] + both, before[1] + count)
            )

    def by_layer(self) -> dict[str, dict[int, ClassMean]]:
        """Every class, and how many images it has."""
        found: dict[str, dict[int, tuple[Floats, int]]] = {}
        pivots: dict[str, Floats] = {}
        for layout, sums in self._sums.items():
            pivots |= dict(apart(layout, self._pivots[layout]))
            for label, (total, n) in sums.items():
                for name, both in apart(layout, total):
                    known, number = found.setdefault(name, {}).get(label, (0.0, 0))
                    found[name][label] = known + both, number + n
        return {
            layer: {
                label: ClassMean(m + pivots[layer], n, q - m * m)
                for label, (total, n) in sums.items()
                for m, q in [total / n]
            }
            for layer, sums in found.items()
        }
