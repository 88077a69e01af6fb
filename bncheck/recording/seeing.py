"""Batches against running statistics, and the batches of several processes against each other.

In running coordinates, as in `measuring.deviation`: d = (mu - running_mean) / sigma_r,
r = sigma / sigma_r, W2^2 = d^2 + f (r - 1)^2. A batch of which a channel is constant has nothing
whose scale could be wrong: f = var / (var + eps), which is 1 for all others. By chance W2^2 is
(kappa / B + 1 / B)(Vm / sigma^2 + Vq / (4 sigma^4)), kappa = m / (2 - m), or what the channel's
batches differ by (`recording.spread`), where that is more: it is taken off.

All layers are compared at once: theirs are one vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bncheck.measuring.deviation import averaging_noise
from bncheck.reading.training_state import Seen
from bncheck.recording.batch import Batch
from bncheck.recording.spread import Spread
from bncheck.recording.state import eps_of, momentum_of
from bncheck.rules.series.batches import warm_from

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bncheck.measuring.norms import TrackingNorm
    from bncheck.reading.tensors import Array

    Floats = NDArray[np.float64]

_TINY: Final = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Held:
    """The running statistics of all layers at one time, behind each other, and their counters.

    What is made of them is asked for several times a step, and made once.
    """

    norms: Sequence[TrackingNorm]
    widths: NDArray[np.intp]
    mean: Floats
    var: Floats
    counters: Sequence[float | None]

    @classmethod
    def of(cls, norms: Sequence[TrackingNorm], arrays: Mapping[str, Array]) -> Held:
        """As they were copied."""
        dots = [f"{norm.name}." if norm.name else "" for norm in norms]
        means, variances = (
            [arrays[dot + name].reshape(-1) for dot, name in zip(dots, names, strict=True)]
            for names in ([norm.mean_name for norm in norms], [norm.var_name for norm in norms])
        )
        counters = (arrays.get(f"{dot}num_batches_tracked") for dot in dots)
        return cls(
            norms,
            np.array([mean.size for mean in means], np.intp),
            np.concatenate(means, dtype=np.float64),
            np.concatenate(variances, dtype=np.float64),
            [None if counter is None else float(counter.reshape(-1)[0]) for counter in counters],
        )

    @property
    def is_finite(self) -> bool:
        """Whether no number is NaN or infinite: in double precision a sum of them tells."""
        return math.isfinite(float(self.mean.sum() + self.var.sum()))

    @cached_property
    def eps(self) -> Floats:
        """The eps of every channel."""
        return np.repeat([eps_of(norm.module) for norm in self.norms], self.widths)

    @cached_property
    def warm(self) -> list[bool]:
        """For every layer, whether its averages have forgotten what they began with."""
        return [
            (counter or 0) >= warm_from(momentum_of(norm.module))
            for norm, counter in zip(self.norms, self.counters, strict=True)
        ]

    @cached_property
    def scale(self) -> Floats:
        """The variance that every channel is divided by; NaN where it is negative (BN103)."""
        var = self.var + self.eps
        scale: Floats = np.where(var < 0, np.nan, np.maximum(var, _TINY))
        return scale

    @cached_property
    def starts(self) -> NDArray[np.intp]:
        """Where each layer begins."""
        return np.cumsum(self.widths) - self.widths

    @cached_property
    def places(self) -> list[slice]:
        """Where each layer is."""
        pairs = zip(self.starts.tolist(), self.widths.tolist(), strict=True)
        return [slice(start, start + width) for start, width in pairs]


def seen(
    batches: Mapping[str, Batch], held: Held, spread: Spread, young: Held | None = None
) -> dict[str, Seen]:
    """How far running statistics, those before the step, are from the batches; by layer.

    `spread` is what is known of earlier batches, and learns of these. `young` are averages without
    what they began with: see `recording.beginning`.
    """
    if not batches:
        return {}
    parts = [
        batches.get(norm.name) or _nothing(width)
        for norm, width in zip(held.norms, held.widths.tolist(), strict=True)
    ]
    with np.errstate(all="ignore"):
        found = _compared(parts, held, spread, young)
    rows = zip(held.norms, parts, found.T.tolist(), strict=True)
    return {
        norm.name: Seen(
            _root(square - noise), _finite(shift), _finite(ratio), part.images,
            _finite(part.largest), training=bool(norm.module.training),
            noise=_finite(chance) if math.isfinite(other) else _finite(noise),
            debiased=_root(other - chance) if math.isfinite(other) else None,
        )
        for norm, part, (square, noise, shift, ratio, other, chance) in rows
        if norm.name in batches
    }  # fmt: skip


def _compared(parts: Sequence[Batch], held: Held, spread: Spread, young: Held | None) -> Floats:
    """(6, layers): W2^2, its noise, mean shift, log variance ratio; W2^2 of `young`, its noise."""
    mean, var, unit = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("mean", "var", "unit")
    )
    averaged = [_averaged(norm, part) for norm, part in zip(held.norms, parts, strict=True)]
    own = unit * var * np.repeat(averaged, held.widths)
    d, e, r, chance = _deviation(mean, var, own, held)
    noise = np.maximum(chance, spread.noise)
    values = [d * d + e * e, noise, d, 2 * np.log(r)]
    settled = np.repeat(held.warm, held.widths)
    if young is not None:
        apart, off, _, less = _deviation(mean, var, own, young)
        is_young = np.isfinite(young.mean)
        d, e, chance = (np.where(is_young, *p) for p in ((apart, d), (off, e), (less, chance)))
        settled |= is_young
        values += [apart * apart + off * off, np.maximum(less, spread.noise)]
    spread.add(np.array([d, e]), settled, chance, held.places)
    means = np.full((6, len(parts)), np.nan)
    means[: len(values)] = np.add.reduceat(np.array(values), held.starts, axis=1) / held.widths
    return means


def _deviation(
    mean: Floats, var: Floats, own: Floats, held: Held
) -> tuple[Floats, Floats, Floats, Floats]:
    """By channel d, sqrt(f) (r - 1), r, and what W2^2 is by chance."""
    scale, sigma2 = held.scale, np.maximum(var + held.eps, _TINY)
    r = np.sqrt(sigma2 / scale)
    return (mean - held.mean) / np.sqrt(scale), (r - 1) * np.sqrt(var / sigma2), r, own / scale


def _averaged(norm: Any, batch: Batch) -> float:
    """The noise of a batch and of its running average, as a share of one image's."""
    kappa = averaging_noise(momentum_of(norm.module), None)
    return (kappa * batch.calls + 1) / max(batch.images, 1.0)


def _nothing(width: int) -> Batch:
    nan = np.full(width, np.nan)
    return Batch(nan, nan, nan, 1.0, 1, float("nan"))


def _root(square: float) -> float | None:
    return _finite(math.sqrt(max(0.0, square)) if math.isfinite(square) else square)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def pooled(batches: Sequence[Batch], between: bool) -> Batch:
    """The batches of several processes as one; with the variance `between` them if they share it.

    SyncBatchNorm normalises with the moments of all; any other layer with its own.
    """
    if len(batches) == 1:
        return batches[0]
    weights = np.array([batch.images for batch in batches], np.float64)
    weights /= weights.sum()
    mean, var, unit = (
        np.einsum("r,rc->c", weights, np.stack([getattr(batch, name) for batch in batches]))
        for name in ("mean", "var", "unit")
    )
    if between:
        apart = np.stack([batch.mean - mean for batch in batches])
        var = var + np.einsum("r,rc->c", weights, apart**2)
    return Batch(
        mean, var, unit, sum(batch.images for batch in batches),
        max(batch.calls for batch in batches), max(batch.largest for batch in batches),
    )  # fmt: skip


def furthest(batches: Sequence[Batch], eps: float, usual: Floats) -> tuple[float, float, int]:
    """W2^2 of the batch that is furthest from all others, its expectation by chance, the process.

    `usual` is the variance, by channel, that batches of all processes together have by chance.
    """
    found = [(*_apart(batches, rank, eps, usual), rank) for rank in range(len(batches))]
    return max(found, key=lambda one: one[0])


def _apart(batches: Sequence[Batch], rank: int, eps: float, usual: Floats) -> tuple[float, float]:
    """A batch of one of R processes varies R times as much, one of the others R/(R - 1) times."""
    own, number = batches[rank], len(batches)
    others = pooled([batch for place, batch in enumerate(batches) if place != rank], False)
    with np.errstate(all="ignore"):
        scale = np.maximum(others.var + eps, _TINY)
        d = (own.mean - others.mean) / np.sqrt(scale)
        r = np.sqrt(np.maximum(own.var + eps, _TINY) / scale)
        w2 = float(np.mean(d**2 + (r - 1) ** 2))
        chance = sum(one.unit * one.var / max(one.images, 1.0) for one in (own, others))
        noise = float(np.mean(np.maximum(chance, usual * number**2 / (number - 1)) / scale))
    return (w2, noise) if math.isfinite(w2) and math.isfinite(noise) else (0.0, 0.0)
