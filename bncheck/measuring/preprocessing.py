"""Which way of preparing the data the statistics were learned on.

The first normalisation layer sees nothing but a function of the input, mostly a linear one, so its
statistics remember how training prepared it. Every usual preparation (preparations.py) is sent
through the stem as far as that layer, and the one with the smallest W2 is what the layer expects.
Of a x + b that is in no use, a and b follow from the layer itself: a^2 is the ratio of stored and
seen variances, and b brings the means to the stored ones, given how they move with the input.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.data import Batch, Batches
from bncheck.layers.norm_layer import NormLayer
from bncheck.measuring.collector import Collector
from bncheck.measuring.deviation import deviation
from bncheck.measuring.forward import forward, prepared
from bncheck.measuring.moments import Moments
from bncheck.measuring.norms import TrackingNorm, in_eval_mode
from bncheck.measuring.preparations import OF_THESE_DATA, preparations
from bncheck.measuring.results import GIVEN, Candidate

if TYPE_CHECKING:
    from torch import Tensor, nn

_SAMPLES: Final = 256
#: Every candidate is tried on so many of them, and the best of these on all.
_TRIED: Final = 32
_KEPT: Final = 3
#: Rounds of fitting a x + b: activations before the layer make it no linear one.
_ROUNDS: Final = 3
#: By how much a fitted preparation must be nearer, for each number that was fitted.
_NEARER: Final = 0.01
#: Scales nearer to 1 are none.
_SCALE: Final = 1.05
_TINY: Final = 1e-12


class _Reached(Exception):  # noqa: N818 - not an error: it ends a forward at the first layer
    pass


def search(
    model: nn.Module, norm: TrackingNorm, layer: NormLayer, data: Batches, device: str
) -> list[Candidate]:
    """All candidates, the best first; none for inputs that are not one tensor of fractions."""
    inputs = _inputs(model, data, device)
    if inputs is None:
        return []
    stem = _Stem(model, norm, layer)
    # A few samples tell the bad ones; all of them decide among the rest.
    tried = [
        (stem.w2(change(inputs[:_TRIED])), name, change) for name, change in preparations(inputs)
    ]
    ranked = sorted((t for t in tried if t[0] is not None), key=lambda found: found[0] or 0.0)
    kept = {name for _, name, _ in ranked[:_KEPT]} | {GIVEN}
    found = []
    for few, name, change in ranked:
        w2 = stem.w2(change(inputs)) if name in kept else few
        usual = name not in OF_THESE_DATA
        found.append(Candidate(name, math.inf if w2 is None else w2, change, usual))
    fitted = _fitted(stem, inputs)
    if fitted is not None:
        kept.add(fitted.name)
        found.append(fitted)
    # One that is in use goes before one that was fitted and is hardly nearer.
    return sorted(
        found, key=lambda c: (c.name not in kept, c.w2 + _NEARER * (not c.usual) * c.free)
    )


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


def _fitted(stem: _Stem, x: Tensor) -> Candidate | None:
    """The a x + b that brings the layer nearest to its statistics."""
    a, b = 1.0, 0.0
    step = float(x.std()) or 1.0
    mean, var = stem.layer.statistics or (np.zeros(0), np.zeros(0))
    for _ in range(_ROUNDS):
        seen, moved = stem.seen(a * x + b), stem.seen(a * x + b + step)
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
    w2 = stem.w2(a * x + b)
    name = f"x * {a:.3g} {'+' if b >= 0 else '-'} {abs(b):.3g}"
    return None if w2 is None else Candidate(name, w2, lambda x: a * x + b, usual=False, free=2.0)


class _Stem:
    """The model up to its first normalisation layer."""

    def __init__(self, model: nn.Module, norm: TrackingNorm, layer: NormLayer) -> None:
        self._model = model
        self._norm = norm
        self.layer = layer

    def w2(self, x: Tensor) -> float | None:
        """W2 of the layer on these samples; None where the model does not take them."""
        moments = self.seen(x)
        if moments is None or not moments.is_finite:
            return None
        return deviation(self.layer, moments).w2

    def seen(self, x: Tensor) -> Moments | None:
        """What the layer sees of these samples."""
        import torch

        def stop(*_: object) -> None:
            raise _Reached

        collector = Collector([self._norm])
        with torch.no_grad(), in_eval_mode(self._model), collector.attached():
            handle = self._norm.module.register_forward_pre_hook(stop)
            try:
                forward(self._model, Batch((x,)), 0)
            except Exception as error:
                if not isinstance(error.__cause__, _Reached):
                    return None
            finally:
                handle.remove()
        try:
            return collector.take(0).get(self._norm.name)
        except BncheckError:  # the preparation overflows
            return None
