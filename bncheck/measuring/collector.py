"""Hooks on every normalisation layer, which turn its input into moments.

A batch costs two reductions a layer in fp32, about a pivot near the mean; what is left, two numbers
an image and channel, is merged in float64. Nothing is kept of the data, so memory does not grow
with the number of samples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from bncheck.core.errors import BncheckError
from bncheck.measuring.moments import Moments, merge_all, of_images
from bncheck.measuring.norms import TrackingNorm, channels_second
from bncheck.measuring.outputs import Outputs
from bncheck.measuring.own_update import OwnUpdate, input_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float64]
    #: (N, C) means and mean squares about the pivot, and how many values an image has.
    _Reduced: TypeAlias = tuple[Tensor, Tensor, float]


#: Numbers handled at a time: 1 MiB of them, with as much again for what is computed.
_PORTION: Final = 1 << 18


#: Of a layer that is called more often in one forward (unrolled over time), no call is kept.
_CALLS: Final = 16
_CALL: Final = "\x02"


class SingleValueError(BncheckError):
    """A batch gave a layer one value for each channel: its batch variance does not exist."""

    def __init__(self, layer: str) -> None:
        super().__init__(
            f"gets one value per channel, so a batch has no variance (layer {layer})",
            "use larger batches, or drop the incomplete last one",
        )
        self.layer = layer


@dataclass(frozen=True, slots=True)
class ClassMean:
    """Mean and variance of one class in a layer, (C,) each, over a number of images."""

    mean: Floats
    images: int
    var: Floats


class ClassMeans:
    """Per layer and class the mean and the mean square about the layer's pivot, over batches."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[int, tuple[Floats, int]]] = {}
        self._pivots: dict[str, Floats] = {}

    def add(self, layer: str, m: Tensor, q: Tensor, labels: Tensor, pivot: Floats) -> None:
        """Add a batch: (N, C) means and mean squares about the pivot, (N,) labels."""
        import torch

        if len(labels) != len(m):
            return
        self._pivots[layer] = pivot
        known = self._sums.setdefault(layer, {})
        found, places = torch.unique(labels, return_inverse=True)
        both = torch.stack([m, q], dim=1).double()
        totals = torch.zeros((len(found), *both.shape[1:]), dtype=both.dtype, device=both.device)
        totals.index_add_(0, places, both)
        counts = places.bincount(minlength=len(found)).tolist()
        for label, total, count in zip(found.tolist(), totals.cpu().numpy(), counts, strict=True):
            before = known.get(label)
            known[label] = (
                (total, count) if before is None else (before[0] + total, before[1] + count)
            )

    def by_layer(self) -> dict[str, dict[int, ClassMean]]:
        """Every class, and how many images it has."""
        return {
            layer: {
                label: ClassMean(m + self._pivots[layer], n, q - m * m)
                for label, (total, n) in sums.items()
                for m, q in [total / n]
            }
            for layer, sums in self._sums.items()
        }


class Collector:
    """The moments of every layer, in the order in which the layers are first reached.

    With `normalise_by_batch`, a layer gets the statistics of its own batch just before it runs: in
    eval mode it then normalises with them. That serves every class that reads its buffers in
    eval mode (frozen, synchronised and fused ones too), leaves dropout off, and touches no
    counter. The buffers must be spare copies.
    """

    def __init__(
        self,
        norms: Sequence[TrackingNorm],
        normalise_by_batch: bool = False,
        outputs: Outputs | None = None,
        own: Mapping[str, OwnUpdate] = MappingProxyType({}),
    ) -> None:
        self.moments: dict[str, Moments] = {}
        self.pivots: dict[str, Tensor] = {}
        self._norms = norms
        self._outputs = outputs
        self._own = own
        self._normalise = normalise_by_batch
        self._calls: dict[str, list[_Reduced]] = {}
        self.labels: Tensor | None = None
        self.classes = ClassMeans()

    @contextlib.contextmanager
    def attached(self) -> Iterator[Collector]:
        """Hooks on, and off again whatever happens."""
        with contextlib.ExitStack() as stack:
            for norm in self._norms:
                hook = self._hook(norm)
                handle = norm.module.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            if self._outputs is not None:
                stack.enter_context(self._outputs.watched(self._record))
            yield self

    def discard(self) -> None:
        """Forget what the last forward gave, its pivots apart."""
        self._calls.clear()

    def take(self, number: int) -> dict[str, Moments]:
        """The moments of the last forward, batch `number`; the collector is ready for the next."""
        taken: dict[str, Moments] = {}
        for name, calls in self._calls.items():
            pivot = self.pivots[name].double().cpu().numpy()
            if self.labels is not None and len(calls) == 1:
                self.classes.add(name, *calls[0][:2], self.labels, pivot)
            each = [_moments(m, q, values, pivot) for m, q, values in calls]
            if self._normalise and 1 < len(each) <= _CALLS:
                taken |= {call_name(name, place): moments for place, moments in enumerate(each)}
            taken[name] = merge_all(each)
            if not taken[name].is_finite:
                raise BncheckError(
                    f"batch {number} reaches layer {name} with NaN or infinity",
                    "look at this batch and the layers before; half precision ends at 65504",
                )
        self._calls.clear()
        return taken

    def so_far(self, name: str) -> Moments:
        """What a layer has seen in the forward that is running."""
        pivot = self.pivots[name].double().cpu().numpy()
        return merge_all([_moments(m, q, values, pivot) for m, q, values in self._calls[name]])

    def add(self, batch: dict[str, Moments]) -> None:
        """Merge one batch's moments into the whole."""
        for name, moments in batch.items():
            known = self.moments.get(name)
            self.moments[name] = moments if known is None else known.merge(moments)

    def _hook(self, norm: TrackingNorm) -> Any:
        own = self._own.get(norm.name)

        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = input_of(args, kwargs)
            m, q, values = reduced = self._reduce(norm.name, norm.channels, x.detach(), norm.last)
            if own is not None:
                m, q, values = reduced = self._by_own_update(own, reduced, args, kwargs)
            self._calls.setdefault(norm.name, []).append(reduced)
            if self._normalise:
                if m.shape[0] * values < 2:
                    raise SingleValueError(norm.name)
                self._set_batch_statistics(norm, m, q)

        return before

    def _record(self, name: str, x: Tensor, channels: int) -> _Reduced:
        reduced = self._reduce(name, channels, x.detach())
        self._calls.setdefault(name, []).append(reduced)
        return reduced

    def _by_own_update(
        self, own: OwnUpdate, reduced: _Reduced, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Reduced:
        """The images' moments moved so that together they give what the layer itself takes.

        How much images differ is taken from their whole inputs, by a factor known from one batch.
        """
        m, q, values = reduced
        mean, var = own.statistics(args, kwargs)
        mean = mean - self.pivots[own.norm.name].double()
        counted = own.values(args, kwargs)
        spread = own.spread or (1.0, 1.0)
        m_own = _moved(m, mean, spread[0])
        q_own = _moved(q, var + mean.square(), spread[1])
        return m_own, q_own, values if counted is None else counted / m.shape[0]

    def _reduce(self, name: str, channels: int, x: Tensor, last: bool = False) -> _Reduced:
        """Per image and channel the mean and the mean square about the pivot, in fp32."""
        import torch

        pivot = self.pivots.get(name)
        if pivot is None:
            pivot = self.pivots[name] = _pivot(channels_second(name, channels, x, last))
        images = (channels_second(name, channels, part, last) for part in portions(x))
        parts = [_reduce_images(part, pivot) for part in images]
        m, q = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        return m, q, x.numel() // m.numel()

    def _set_batch_statistics(self, norm: TrackingNorm, m: Tensor, q: Tensor) -> None:
        """What train() would normalise with: the batch's mean and biased variance."""
        mean = m.mean(dim=0)
        if norm.kind.value == "InstanceNorm":
            var = (q - m * m).mean(dim=0)
        else:
            var = q.mean(dim=0) - mean * mean
        norm.mean.copy_(self.pivots[norm.name] + mean)
        norm.var.copy_(var.clamp_min(0))


def call_name(layer: str, place: int) -> str:
    """The name of the moments of one call of several in a forward."""
    return f"{_CALL}{place}{_CALL}{layer}"


def by_call(moments: Mapping[str, Moments]) -> tuple[dict[str, Moments], dict[str, list[Moments]]]:
    """The moments of layers, and those of each call for layers that are called several times."""
    layers: dict[str, Moments] = {}
    calls: dict[str, list[Moments]] = {}
    for name, found in moments.items():
        if name.startswith(_CALL):
            calls.setdefault(name.split(_CALL, 2)[2], []).append(found)
        else:
            layers[name] = found
    return layers, calls


def portions(x: Tensor) -> Sequence[Tensor]:
    """Groups of images small enough that what is computed from them stays in the cache.

    Passes over main memory are what measuring costs on a CPU: this leaves one of them.
    """
    if x.device.type != "cpu" or x.numel() <= _PORTION or not x.shape[0]:
        return [x]
    return x.split(max(1, _PORTION * x.shape[0] // x.numel()))  # type: ignore[no-any-return,no-untyped-call]


def _pivot(images: Tensor) -> Tensor:
    """The channel means of the first batch; 0 where there is none."""
    return _single(images).mean(dim=(0, 2)).nan_to_num(0.0, 0.0, 0.0)


def _reduce_images(x: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
    deviation = _single(x) - pivot[:, None]
    if deviation.shape[2] == 1:
        m = deviation[:, :, 0]
        return m, m * m
    return deviation.mean(dim=2), deviation.square_().mean(dim=2)


def _moved(values: Tensor, mean: Tensor, spread: Tensor | float) -> Tensor:
    """Numbers of images, (N, C), given another mean and spread."""
    wide = values.double()
    middle = wide.mean(dim=0)
    return ((wide - middle) * spread + mean).to(values.dtype)


def _single(x: Tensor) -> Tensor:
    """Half precision as single."""
    return x.float() if x.dtype.itemsize < 4 else x


def _moments(m: Tensor, q: Tensor, values: float, pivot: Floats) -> Moments:
    return of_images(m.double().cpu().numpy(), q.double().cpu().numpy(), values, pivot)
