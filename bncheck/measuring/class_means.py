"""Layers side by side in one array, and what the classes of the samples are in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from bncheck.measuring.messages import Contribution

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from bncheck.measuring.distributed import Processes

    Floats = NDArray[np.float64]

#: Not exchanged beyond this: every rank is sent the numbers of all, 8 bytes each.
_MOST_NUMBERS: Final = 1 << 25
#: Classes that there is room for at first.
_KINDS: Final = 16

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
        """The class over the images of both (Chan, Golub, LeVeque 1979)."""
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
    numbers = sum(2 * len(one.mean) for found in mine.values() for one in found.values())
    told = processes.told("how many numbers classes have", str(numbers).encode())
    if sum(map(int, told)) > _MOST_NUMBERS:
        return {}
    parts = {layer: _rows(found) for layer, found in mine.items()}
    merged: dict[str, dict[int, ClassMean]] = {}
    for other in processes.exchange("the classes", Contribution(parts)):
        for layer, rows in other.parts.items():
            known = merged.setdefault(layer, {})
            for row in rows:
                label, images = (int(number) for number in row[:2])
                mean, var = np.split(row[2:], 2)
                one = ClassMean(mean, images, var)
                known[label] = known[label].merge(one) if label in known else one
    return {layer: dict(sorted(known.items())) for layer, known in merged.items()}


def _rows(classes: Mapping[int, ClassMean]) -> Floats:
    """A row for each: its number, images, means and variances."""
    rows = [np.concatenate([[label, c.images], c.mean, c.var]) for label, c in classes.items()]
    return np.stack(rows)


class ClassMeans:
    """Per class the means and mean squares about the pivots, over batches; layers side by side."""

    def __init__(self) -> None:
        self._sums: dict[Layout, _Sums] = {}

    def add(self, layout: Layout, m: Tensor, q: Tensor, labels: Tensor, pivot: Floats) -> None:
        """Add a batch: (N, C) means and mean squares about the pivot, (N,) labels."""
        sums = self._sums.get(layout)
        if sums is None:
            sums = self._sums[layout] = _Sums(m.new_zeros((2, _KINDS, m.shape[1])), pivot)
        sums.add(m, q, labels.tolist())

    def by_layer(self) -> dict[str, dict[int, ClassMean]]:
        """Every class, and how many images it has."""
        found: dict[str, dict[int, tuple[Floats, int]]] = {}
        pivots: dict[str, Floats] = {}
        for layout, sums in self._sums.items():
            pivots |= dict(apart(layout, sums.pivot))
            totals = sums.totals.cpu().numpy()
            for label, place in sums.places.items():
                n = sums.images[label]
                for name, both in apart(layout, totals[:, place]):
                    known, number = found.setdefault(name, {}).get(label, (0.0, 0))
                    found[name][label] = known + both, number + n
        return {
            layer: {
                label: ClassMean(m + pivots[layer], n, q - m * m)
                for label, (total, n) in sorted(sums.items())
                for m, q in [total / n]
            }
            for layer, sums in found.items()
        }


@dataclass
class _Sums:
    """Sums of means and of mean squares, (2, K, C) with room for K classes, each in its place."""

    totals: Tensor
    pivot: Floats
    places: dict[int, int] = field(default_factory=dict)
    images: Counter[int] = field(default_factory=Counter)

    def add(self, m: Tensor, q: Tensor, labels: list[int]) -> None:
        import torch

        places = [self.places.setdefault(label, len(self.places)) for label in labels]
        if len(self.places) > self.totals.shape[1]:
            room = torch.zeros_like(self.totals)
            self.totals = torch.cat([self.totals, *[room] * (len(self.places) // room.shape[1])], 1)
        index = torch.tensor(places, device=m.device)
        for total, numbers in zip(self.totals, (m, q), strict=True):
            total.index_add_(0, index, numbers)
        self.images.update(labels)
