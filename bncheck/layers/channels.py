"""The channels of many layers side by side: a question about each is asked of all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bncheck.layers.norm_layer import NormLayer

if TYPE_CHECKING:
    import numpy.typing as npt

    from bncheck.layers.norm_layer import Floats
    from bncheck.reading.tensors import Array

    Flags = npt.NDArray[np.bool_]


def is_regular(layer: NormLayer) -> bool:
    """Whether it has both statistics, and no tensor of another length than theirs."""
    mean, var, size = layer.mean, layer.var, layer.channels
    if mean is None or var is None or not size or var.size != size:
        return False
    return all(t is None or t.size == size for t in (layer.weight, layer.bias))


@dataclass(frozen=True)
class Channels:
    """The numbers of regular layers in float64, one layer behind the other.

    `mean`, `var`, `weight` and `bias` have the shape (channels of all layers,); a layer without
    weight has 1 there, one without bias 0. `eps`, `momentum` and `counter` have a number for each
    layer, NaN where it has none. `any`, `all`, `least` and `most` go from channels to layers,
    `each` goes back.
    """

    layers: Sequence[NormLayer]

    @cached_property
    def mean(self) -> Floats:
        """The running means."""
        return self._joined([layer.mean for layer in self.layers], 0)

    @cached_property
    def var(self) -> Floats:
        """The running variances."""
        return self._joined([layer.var for layer in self.layers], 1)

    @cached_property
    def weight(self) -> Floats:
        """The weights."""
        return self._joined([layer.weight for layer in self.layers], 1)

    @cached_property
    def bias(self) -> Floats:
        """The biases."""
        return self._joined([layer.bias for layer in self.layers], 0)

    @cached_property
    def eps(self) -> Floats:
        """What is added to the variances, by layer."""
        return np.array([layer.eps.value for layer in self.layers], np.float64)

    @cached_property
    def momentum(self) -> Floats:
        """In PyTorch's convention, by layer."""
        return np.array([layer.momentum.value for layer in self.layers], np.float64)

    @cached_property
    def counter(self) -> Floats:
        """How many batches each layer counted."""
        return np.array([layer.counter for layer in self.layers], np.float64)

    @cached_property
    def _sizes(self) -> npt.NDArray[np.intp]:
        return np.array([layer.channels for layer in self.layers], np.intp)

    @cached_property
    def _starts(self) -> npt.NDArray[np.intp]:
        return np.asarray(np.cumsum(self._sizes) - self._sizes)

    def _joined(self, tensors: Sequence[Array | None], default: float) -> Floats:
        sizes = (layer.channels for layer in self.layers)
        arrays = [
            np.full(size, default) if tensor is None else tensor
            for size, tensor in zip(sizes, tensors, strict=True)
        ]
        return np.concatenate([np.zeros(0), *arrays], dtype=np.float64, casting="unsafe")

    def any(self, flags: Flags) -> Flags:
        """Whether it is true of a channel, by layer."""
        return np.asarray(np.logical_or.reduceat(flags, self._starts))

    def all(self, flags: Flags) -> Flags:
        """Whether it is true of every channel, by layer."""
        return np.asarray(np.logical_and.reduceat(flags, self._starts))

    def least(self, numbers: Floats) -> Floats:
        """The smallest number of each layer, NaN where there is one."""
        return np.asarray(np.minimum.reduceat(numbers, self._starts))

    def most(self, numbers: Floats) -> Floats:
        """The largest number of each layer, NaN where there is one."""
        return np.asarray(np.maximum.reduceat(numbers, self._starts))

    def each(self, numbers: Floats) -> Floats:
        """The number of a layer for each of its channels."""
        return np.repeat(numbers, self._sizes)
