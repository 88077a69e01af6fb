"""Which way of preparing the data the statistics were learned on.

The first normalisation layer sees nothing but a function of the input, mostly a linear one, so its
statistics remember how training prepared it. Every usual preparation (preparations.py) is sent
through the stem as far as that layer, and the one with the smallest W2 is what the layer expects.
Of a x + b that is in no use, a and b follow from the layer itself: a^2 is the ratio of stored and
seen variances, and b brings the means to the stored ones, given how they move with the input.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.core.thresholds import W2_STEM
from bncheck.data import Batch, Batches
from bncheck.layers.norm_layer import NormLayer
from bncheck.measuring.collector import Collector
from bncheck.measuring.deviation import Deviation, deviation
from bncheck.measuring.distributed import Processes
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
#: Rounds of fitting a x + b: activations before the layer make it no linear one.
_ROUNDS: Final = 3
#: By how much a fitted preparation must be nearer, for each number that was fitted.
_NEARER: Final = 0.01
#: Scales nearer to 1 are none.
_SCALE: Final = 1.05
_TINY: Final = 1e-12


class _Reached(BncheckError):  # noqa: N818 - not an error: it ends a forward at the first layer
    """What `forward` lets through as it is, whose description would cost more than the stem."""


def search(
    model: nn.Module, norm: TrackingNorm, layer: NormLayer, data: Batches, run: Run
) -> list[Candidate]:
    """All candidates, the best first; none for inputs that are not one tensor of fractions."""
    inputs = _inputs(model, data, run.device)
    if inputs is None:
        return []
    with _Stem(model, norm, layer, run.processes).watched() as stem:
        kept, tried = _searched(stem, inputs)
    names = {one.name for one in kept}
    ordered = sorted(tried, key=lambda one: (one.name not in names, one.handicapped))
    return [one.candidate for one in ordered if one.held is not None]


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
    fitted = None if best < _NEARER else _fitted(stem, few)
    if fitted is not None and _hopeful([fitted], 1):
        fitted = _fitted(stem, inputs)
    if fitted is not None:
        kept.append(fitted)
        tried.append(fitted)
    return kept, tried


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
        return self.w2 + _NEARER * (not self.usual) * self.free

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


def _inputs(model: nn.Module, data: Batches, device: str) -> Tensor | None:
    """The first samples, where the model has one input of fractions."""
    import torch

    parts: list[Tensor] = []
    for number, batch in enumerate(data):
        if len(batch.inputs) != 1 or batch.inputs[0].ndim < 2:
            return None
        parts.append(prepared(model, batch, number, device).inputs[0])
        if (
            parts[-1].shape[1:] != parts[0].shape[1:]
            or sum(len(part) for part in parts) >= _SAMPLES
        ):
            break
    same = [part for part in parts if part.shape[1:] == parts[0].shape[1:]]
    samples = torch.cat(same)[:_SAMPLES]
    return samples if samples.is_floating_point() else None


def _fitted(stem: _Stem, x: Tensor) -> _Tried | None:
    """The a x + b that brings the layer nearest to its statistics."""
    a, b = 1.0, 0.0
    step = float(x.std()) or 1.0
    mean, var = stem.layer.statistics or (np.zeros(0), np.zeros(0))
    for _ in range(_ROUNDS):
        seen, moved = stem.seen(x, [_scaled(a, b), _scaled(a, b + step)])
        if seen is None or moved is None:
            return None
        sigma = np.sqrt(np.maximum(seen.var, 0) + _TINY)
        live = (seen.var > _TINY) & (var > _TINY)
        if not live.any():
            return None
        a *= float(np.exp(0.5 * np.median(np.log(var[live] / seen.var[live]))))
        pull, off = (moved.mean - seen.mean) / sigma / step, (mean - seen.mean) / sigma
        b += float(pull @ off) / max(float(pull @ pull), _TINY)
    if not (math.isfinite(a) and math.isfinite(b) and a > 0):
        return None
    if max(a, 1 / a) < _SCALE and abs(b) < (_SCALE - 1) * a * step:
        return None
    name = f"x * {a:.3g} {'+' if b >= 0 else '-'} {abs(b):.3g}"
    fitted = _scaled(a, b)
    return _Tried(name, fitted, False, 2.0, *stem.held(x, [fitted]))


def _scaled(a: float, b: float) -> Change:
    return lambda x: a * x + b


class _Stem:
    """The model up to its first normalisation layer."""

    def __init__(
        self, model: nn.Module, norm: TrackingNorm, layer: NormLayer, processes: Processes
    ) -> None:
        self._model = model
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

    def _run(self, x: Tensor, change: Change) -> Parts:
        """A few samples at a time: what a stem makes of hundreds of images is hundreds of MB."""
        self._collector.restart()
        found: list[Parts] = []
        try:
            for part in portions(x, _FEW_IMAGES):
                with contextlib.suppress(_Reached):
                    forward(self._model, Batch((change(part),)), 0)
                found.append(self._collector.take(0))
        except Exception:  # the model does not take it, or it overflows
            return {}
        seen = [parts[self._norm.name] for parts in found if parts]
        return {"": reduce(merged, seen)} if seen else {}
