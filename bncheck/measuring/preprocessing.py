"""Which way of preparing the data the statistics were learned on.

A layer with none before it sees nothing but a function of an input, mostly a linear one, so its
statistics remember how training prepared it. Every usual preparation (preparations.py) is sent
through the stem as far as that layer, and the one with the smallest W2 is what the layer expects.
Scales that are in no use follow from the layer itself (fitting.py). Each input is tried for itself,
the others as they are.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.core.thresholds import W2_STEM
from bncheck.data import Batch, Batches
from bncheck.data.batches import joined
from bncheck.layers.norm_layer import NormLayer
from bncheck.measuring.collector import Collector
from bncheck.measuring.deviation import Deviation, deviation
from bncheck.measuring.distributed import Processes
from bncheck.measuring.feature_scales import scale_of_features
from bncheck.measuring.fitting import one_scale
from bncheck.measuring.forward import forward, prepared
from bncheck.measuring.messages import Parts
from bncheck.measuring.moments import Moments, merged, unpack
from bncheck.measuring.norms import TrackingNorm, in_eval_mode
from bncheck.measuring.preparations import OF_THESE_DATA, preparations
from bncheck.measuring.reduction import portions
from bncheck.measuring.results import GIVEN, Candidate
from bncheck.measuring.run import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bncheck.measuring.fitting import Fit, Floats

    Change: TypeAlias = Callable[[Tensor], Tensor]

#: So many samples are looked at, the first few by every candidate, more by the best of them.
_SAMPLES: Final = 256
_FEW_IMAGES: Final = 8
_FEW: Final = 32
_MORE: Final = 64
#: How many candidates are tried on more samples, and on all.
_SOME: Final = 3
_BEST: Final = 2
#: A W2 of few samples is as much as so many times their noise above that of all.
_BY_CHANCE: Final = 2.0
#: By how much a fitted preparation must be nearer, for each number that was fitted.
_NEARER: Final = 0.01
_MOST: Final = 4.0


class _Reached(BncheckError):  # noqa: N818 - not an error: it ends a forward at the first layer
    """What `forward` lets through as it is, whose description would cost more than the stem."""


def search(
    model: nn.Module, norm: TrackingNorm, layer: NormLayer, data: Batches, run: Run, place: int = 0
) -> list[Candidate]:
    """All candidates for the input at a place, the best first; none where it has no fractions."""
    whole = _samples(model, data, run.device, place)
    if whole is None:
        return []
    with _Stem(model, norm, layer, run.processes, whole, place).watched() as stem:
        kept, tried = _searched(stem, whole.inputs[place])
    names = {one.name for one in kept}
    ordered = sorted(tried, key=lambda one: (one.name not in names, one.handicapped))
    several = len(whole.inputs) > 1
    found = [one.candidate for one in ordered if one.held is not None]
    return [replace(c, layer=layer.name, place=place, several=several) for c in found]


def _searched(stem: _Stem, inputs: Tensor) -> tuple[list[_Tried], list[_Tried]]:
    """Those that were held against all samples, and all."""
    # A few samples tell the bad ones; all of them decide among those that may fit.
    few = inputs[: _FEW_IMAGES if inputs.ndim > 3 else _FEW]
    named = preparations(inputs)
    tried = [_Tried(n, change, n not in OF_THESE_DATA, 0.5) for n, change in named]
    _try(stem, tried, few)
    _try(stem, _hopeful(tried, _SOME), inputs[:_MORE])
    kept = _hopeful(tried, _BEST)
    _try(stem, kept, inputs)
    best = min((one.w2 for one in kept), default=math.inf)
    if best >= _NEARER:
        fitted = _fitted(stem, inputs, few)
        return [*kept, *fitted], [*tried, *fitted]
    return kept, tried


def _fitted(stem: _Stem, inputs: Tensor, few: Tensor) -> list[_Tried]:
    """One scale and shift for all numbers or, where no one fits, some for each feature."""
    found: list[_Tried] = []
    for fit in (one_scale, scale_of_features):
        if any(one.w2 < W2_STEM for one in found):
            break
        fitted = _by(stem, few, fit)
        if fitted is not None and _hopeful([fitted], 1):
            fitted = _by(stem, inputs, fit)
        found += [] if fitted is None else [fitted]
    return found


def _by(stem: _Stem, x: Tensor, fit: Fit) -> _Tried | None:
    fitted = fit(stem, x)
    if fitted is None:
        return None
    held = stem.held(x, [fitted.change])
    return _Tried(fitted.words, fitted.change, False, fitted.free, *held)


@dataclass
class _Tried:
    """A preparation, and what the first layer deviates with it on the samples that it was given."""

    name: str
    transform: Change
    usual: bool
    free: float
    held: Deviation | None = None

    @property
    def w2(self) -> float:
        return math.inf if self.held is None else self.held.w2

    @property
    def handicapped(self) -> float:
        """Its W2, more for what was fitted: what is in use goes before what is hardly nearer."""
        return self.w2 + _NEARER * (not self.usual) * min(self.free, _MOST)

    @property
    def candidate(self) -> Candidate:
        """As the rules are told of it."""
        return Candidate(self.name, self.w2, self.transform, self.usual, self.free)


def _try(stem: _Stem, tried: Sequence[_Tried], x: Tensor) -> None:
    held = stem.held(x, [one.transform for one in tried])
    for one, found in zip(tried, held, strict=True):
        one.held = found


def _hopeful(tried: Sequence[_Tried], most: int) -> list[_Tried]:
    """The best of those that may fit when more samples have taken chance away, and the data."""
    able = [
        one for one in tried if one.held is not None
        and one.held.w2 <= W2_STEM + _BY_CHANCE * math.sqrt(one.held.reference_noise)
    ]  # fmt: skip
    best = sorted(able, key=lambda one: one.handicapped)[:most]
    return [*best, *(one for one in tried if one.name == GIVEN and one not in best and able)]


def _samples(model: nn.Module, data: Batches, device: str, place: int) -> Batch | None:
    """The first samples as one batch, where they can be joined and the input has fractions."""
    parts: list[Batch] = []
    for number, batch in enumerate(data):
        parts.append(prepared(model, Batch(batch.args, batch.kwargs), number, device))
        if not _alike(parts[-1], parts[0]) or sum(part.size for part in parts) >= _SAMPLES:
            break
    same = [part for part in parts if part.size and _alike(part, parts[0])]
    if not same or any(x.ndim < 1 or len(x) != p.size for p in same for x in p.inputs):
        return None
    samples = joined(same).part(0, _SAMPLES)
    x = samples.inputs[place]
    return samples if x.is_floating_point() and x.ndim > 1 else None


def _alike(one: Batch, other: Batch) -> bool:
    return [x.shape[1:] for x in one.inputs] == [x.shape[1:] for x in other.inputs]


class _Stem:
    """The model up to a normalisation layer, fed with the first samples of a batch, one changed."""

    def __init__(
        self,
        model: nn.Module,
        norm: TrackingNorm,
        layer: NormLayer,
        processes: Processes,
        whole: Batch,
        place: int,
    ) -> None:
        self._model = model
        self._whole, self._place = whole, place
        self._norm = norm
        self._processes = processes
        self._collector = Collector([norm])
        self.layer = layer

    @contextlib.contextmanager
    def watched(self) -> Iterator[_Stem]:
        """The model ready for any number of runs as far as the layer."""
        import torch

        def stop(*_: object) -> None:
            raise _Reached("ends here", "")

        with torch.no_grad(), in_eval_mode(self._model), self._collector.attached():
            handle = self._norm.module.register_forward_pre_hook(stop)
            try:
                yield self
            finally:
                handle.remove()

    def held(self, x: Tensor, changes: Sequence[Change]) -> list[Deviation | None]:
        """The layer against these samples, changed; None where the model does not take them."""
        return [
            None if moments is None or not moments.is_finite else deviation(self.layer, moments)
            for moments in self.seen(x, changes)
        ]

    def seen(self, x: Tensor, changes: Sequence[Change]) -> list[Moments | None]:
        """What the layer sees of the samples, changed in each of these ways."""
        found = self._processes.dealt("preparations", changes, partial(self._run, x))
        return [unpack(parts[""]) if parts else None for parts in found]

    def of_each(self, x: Tensor) -> Floats | None:
        """The means that the layer sees of each sample, (N, C); None where it sees none of each.

        The model's other inputs are for all of them those of the first.
        """
        (parts,) = self._processes.dealt("samples", [x], self._run_each)
        return parts.get("")

    def _run_each(self, x: Tensor) -> Parts:
        self._collector.restart()
        batch = self._whole.picked(np.zeros(len(x), np.int64))
        try:
            with contextlib.suppress(_Reached):
                forward(self._model, batch.with_input(self._place, lambda _: x), 0)
            means = self._collector.means_of_images(self._norm.name)
        except Exception:  # as in _run; or the layer is not reached
            return {}
        return {"": means} if len(means) == len(x) else {}

    def _run(self, x: Tensor, change: Change) -> Parts:
        """A few samples at a time: what a stem makes of hundreds of images is hundreds of MB."""
        self._collector.restart()
        found: list[Parts] = []
        start = 0
        try:
            for part in portions(x, _FEW_IMAGES):
                batch = self._whole.part(start, start + len(part))
                start += len(part)
                with contextlib.suppress(_Reached):
                    forward(self._model, batch.with_input(self._place, change), 0)
                found.append(self._collector.take(0))
        except Exception:  # the model does not take it, or it overflows
            return {}
        seen = [parts[self._norm.name] for parts in found if parts]
        return {"": reduce(merged, seen)} if seen else {}
