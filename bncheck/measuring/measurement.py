"""A measurement, as data: what every layer saw, and what else the passes told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import numpy as np

from bncheck.core.thresholds import DEFAULT, Thresholds
from bncheck.layers.norm_layer import NormLayer
from bncheck.measuring.deviation import Deviation, averaging_noise
from bncheck.measuring.moments import Moments
from bncheck.measuring.results import Comparison, Direction
from bncheck.reading.kinds import NormKind

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from bncheck.measuring.class_means import ClassMean
    from bncheck.measuring.entries import Entry
    from bncheck.measuring.features import InputFeatures
    from bncheck.measuring.histogram import Shape
    from bncheck.measuring.results import Candidate

    Floats = NDArray[np.float64]

#: Batch sizes of the advice: powers of two up to here.
_LARGEST_BATCH: Final = 1024
#: What is assumed about the training by default.
ASSUMED_TRAIN_BATCH: Final = 32
#: A channel is listed among the worst from this W2 on.
_LISTED_FROM: Final = 0.5
_LISTED: Final = 8
#: Why a layer that the model has was not measured.
NOT_REACHED: Final = "no data reached it"
#: Beyond this many standard errors a channel's deviation is not noise.
Z_LIMIT: Final = 5.0
_TINY: Final = 1e-12


@dataclass(frozen=True)
class Replay:
    """What the layers see by themselves if the code between them is another, by name of layer."""

    words: str
    moments: Mapping[str, Moments]


#: What every layer sees by itself, by name of layer.
Seen: TypeAlias = Mapping[str, Moments]


@dataclass(frozen=True)
class Scatter:
    """What batches of one size leave in a layer, each in the batch cascade: averages over them.

    With the variance over batches of the batches' means and variances, (C,) each.
    """

    mean: Floats
    var: Floats
    of_means: Floats
    of_variances: Floats
    batches: int


class Reruns(Protocol):
    """What else the model that was measured tells, mostly by a run, when it is asked for."""

    def other_code(self, refuted: Callable[[str, Moments], bool]) -> Sequence[Replay]:
        """What layers see with other code between them, where none of them refutes it."""
        ...

    def changed(self, change: Callable[[Tensor], Tensor], place: int | None = None) -> Seen:
        """What layers see of changed inputs, or of one; nothing where the model takes none."""
        ...

    def with_dropout(self) -> Seen:
        """What layers see while dropout drops, as in training."""
        ...

    def input_scale(self) -> tuple[float, float]:
        """Mean and standard deviation of all numbers in the inputs."""
        ...

    def of_each_kind(self, most: int = ...) -> Mapping[int, Seen]:
        """What layers see of batches of one kind (class) of samples each, of so many at most."""
        ...

    def in_shares(self, shares: Mapping[int, float], batches: int | None = None) -> Seen:
        """What layers see of batches, or of the first few, in which kinds have other shares."""
        ...

    def in_batches_of(self, size: int, most: int = ...) -> Mapping[str, Scatter]:
        """What some small batches of shuffled samples leave in each layer, where they can be."""
        ...

    def biases(self) -> Mapping[str, Floats]:
        """The bias of the convolution or linear module that feeds a layer, where one does."""
        ...

    def untrained(self) -> tuple[str, ...]:
        """Convolutions and linear layers at PyTorch's initial weights."""
        ...


@dataclass(frozen=True)
class MeasuredLayer:
    """One layer in both cascades; None where it was not reached, or the cascade not needed."""

    layer: NormLayer
    eval: Deviation | None = None
    batch: Deviation | None = None
    eval_moments: Moments | None = None
    batch_moments: Moments | None = None
    classes: Mapping[int, ClassMean] = field(default_factory=dict)  # in the batch cascade
    shape: Shape | None = None
    calls: tuple[Moments, ...] = ()  # of each of several in a forward, in the batch cascade

    @cached_property
    def stored(self) -> tuple[Floats, Floats]:
        """Its running statistics, (C,) each."""
        assert self.layer.statistics is not None
        return self.layer.statistics

    @cached_property
    def seen(self) -> tuple[Floats, Floats]:
        """Mean and unbiased variance that the layer sees by itself, (C,) each."""
        assert self.batch_moments is not None
        return self.batch_moments.mean, self.batch_moments.unbiased_var

    @cached_property
    def sampling_noise(self) -> float:
        """By how much the squared deviations of all channels would add up with right statistics.

        Because the data are a sample: C times the mean of (Vm / sigma^2 + Vq / (4 sigma^4)) / N,
        of the batch cascade, sigma as measured.
        """
        moments = self.batch_moments
        assert moments is not None
        var = np.maximum(moments.var, 0) + (self.layer.eps.value or 0.0) + _TINY
        each = moments.var_of_means / var + moments.var_of_squares / (4 * var**2)
        return float(np.sum(each)) / max(moments.effective_images, 1.0)

    @property
    def worst_channels(self) -> list[dict[str, object]]:
        """The channels that deviate most."""
        if self.eval is None:
            return []
        return [
            {
                "channel": channel,
                "w2": float(self.eval.channels[channel]),
                "d": float(self.eval.d[channel]),
                "r": float(self.eval.r[channel]),
            }
            for channel in self.eval.worst(_LISTED, _LISTED_FROM)
        ]

    def z_share(self, train_batch_size: int | None) -> float | None:
        """The share of channels that deviate by more than running average and sample explain."""
        if self.eval is None:
            return None
        averaging = averaging_noise(self.layer.momentum.value, self.layer.counter)
        z = self.eval.z(averaging / (train_batch_size or ASSUMED_TRAIN_BATCH))
        return float((z > Z_LIMIT).mean())


@dataclass(frozen=True)
class Measurement:
    """Everything that was measured. `layers` are in the order of execution, unreached ones last."""

    layers: tuple[MeasuredLayer, ...]
    samples: int
    available: int | None
    batch_size: int
    train_batch_size: int | None = None
    comparison: Comparison | None = None
    candidates: tuple[Candidate, ...] = ()  # input by input, the best of each first
    entries: tuple[Entry, ...] = ()  # layers that see the data before anything was normalised
    behind_dropout: Mapping[str, float] = field(default_factory=dict)
    restored: Mapping[str, float] = field(default_factory=dict)  # W2 with measured statistics
    features: InputFeatures | None = None
    thresholds: Thresholds = DEFAULT
    unmeasured: Mapping[str, str] = field(default_factory=dict)  # layers, and why
    reruns: Reruns | None = None
    single_value: str | None = None  # a layer whose batches are of one value a channel

    @property
    def reached(self) -> list[MeasuredLayer]:
        """The layers that saw data."""
        return [layer for layer in self.layers if layer.eval is not None]

    @property
    def w2(self) -> float:
        """The largest layer's W2 in the eval cascade."""
        return max((m.eval.w2 for m in self.layers if m.eval is not None), default=0.0)

    @property
    def worst(self) -> MeasuredLayer | None:
        """The layer with the largest W2."""
        return max(self.reached, key=lambda m: m.eval.w2 if m.eval else 0.0, default=None)

    @property
    def direction(self) -> Direction:
        """What measured statistics do to the results."""
        return self.comparison.direction if self.comparison else Direction.UNKNOWN

    def by_name(self) -> dict[str, MeasuredLayer]:
        """Layers by name."""
        return {measured.layer.name: measured for measured in self.layers}

    def why_not(self, layer: NormLayer) -> str | None:
        """Why a layer was not measured; None where it was."""
        if layer.name in self.unmeasured:
            return self.unmeasured[layer.name]
        measured = self.by_name().get(layer.name)
        if measured is not None:
            return NOT_REACHED if measured.eval is None else None
        if not layer.tracked:
            return "keeps no running statistics"
        if layer.statistics is None:
            return "its statistics cannot be used"
        return "the model has no layer of this name that keeps running statistics"

    def with_single_values(self) -> str | None:
        """A layer that gets one value for each channel because batches hold one image."""
        for measured in self.layers:
            moments = measured.eval_moments
            if self.batch_size == 1 and moments is not None and moments.weight == moments.images:
                return measured.layer.name
        return None

    @property
    def noise_of_one(self) -> float:
        """W2 that the statistics of a single image carry in the noisiest layer."""
        return max((self._noise_of_one(m) for m in self.layers), default=0.0)

    def batch_noise(self) -> dict[int, float]:
        """W2 of batch statistics against batch size: it falls with the root of the size."""
        sizes = [2**power for power in range(int(math.log2(_LARGEST_BATCH)) + 1)]
        return {size: self.noise_of_one / math.sqrt(size) for size in sizes}

    def smallest_batch(self, limit: float) -> int:
        """The smallest batch whose statistics carry less noise than `limit`."""
        return max(1, math.floor((self.noise_of_one / limit) ** 2) + 1)

    @staticmethod
    def _noise_of_one(measured: MeasuredLayer) -> float:
        moments = measured.batch_moments or measured.eval_moments
        if moments is None or moments.images < 2:
            return 0.0
        sigma2 = moments.var + (measured.layer.eps.value or 0.0)
        live = sigma2 > 0
        if not live.any():
            return 0.0
        spread = moments.var_of_squares[live] / (4 * sigma2[live])
        return math.sqrt(float(((moments.var_of_means[live] + spread) / sigma2[live]).mean()))


def measured_statistics(layers: tuple[MeasuredLayer, ...]) -> dict[str, tuple[Floats, Floats]]:
    """Population statistics of the batch cascade, as buffers hold them; unreached layers absent."""
    found = {}
    for measured in layers:
        moments = measured.batch_moments
        if moments is not None:
            var = moments.unbiased_var
            if measured.layer.kind is NormKind.INSTANCE:
                var = moments.within
            found[measured.layer.name] = (moments.mean, var)
    return found
