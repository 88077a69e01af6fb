"""Hooks on every normalisation layer, which turn its input into moments.

A batch costs two reductions a layer in fp32, about a pivot near the mean; what is left, two numbers
an image and channel, is merged in float64. Nothing is kept of the data, so memory does not grow
with the number of samples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import reduce
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.measuring.class_means import ClassMeans, Layout, apart
from bncheck.measuring.merging import call_name
from bncheck.measuring.moments import Moments, merged, packed, packed_vectors, unpack
from bncheck.measuring.norms import TrackingNorm, channels_second
from bncheck.measuring.outputs import Outputs
from bncheck.measuring.own_update import OwnUpdate, input_of
from bncheck.measuring.reduction import in_single, pivot_of, reduced
from bncheck.measuring.side_by_side import alike, refuse_non_finite, side_by_side

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from bncheck.measuring.messages import Parts
    from bncheck.measuring.reduction import Reduced
    from bncheck.measuring.side_by_side import Call

    Floats = NDArray[np.float64]


#: Of a layer whose calls in one forward have more channels together, no call is kept: half a
#: megabyte of each number. A layer of 512 that is unrolled over 128 steps of time has as many.
_CALLED: Final = 1 << 16


class SingleValueError(BncheckError):
    """A batch gave a layer one value for each channel: its batch variance does not exist."""

    def __init__(self, layer: str) -> None:
        super().__init__(
            f"gets one value per channel, so a batch has no variance (layer {layer})",
            "use larger batches, or drop the incomplete last one",
        )
        self.layer = layer


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
        self.pivots: dict[str, Tensor] = {}
        self._norms = norms
        self._outputs = outputs
        self._own = own
        self._normalise = normalise_by_batch
        self._calls: dict[str, list[Reduced]] = {}
        self.labels: Tensor | None = None
        self.classes = ClassMeans()
        self._pivots: dict[Layout, Floats] = {}

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

    def pivot_at_running_means(self, names: Container[str]) -> None:
        """The running means of these layers are pivots: no batch need be seen first."""
        near = (norm for norm in self._norms if norm.name in names)
        self.pivots |= {norm.name: in_single(norm.mean.detach().clone()) for norm in near}

    def discard(self) -> None:
        """Forget what the last forward gave, its pivots apart."""
        self._calls.clear()

    def restart(self) -> None:
        """Forget that and the pivots, which are those of other data."""
        self.discard()
        self.pivots.clear()
        self._pivots.clear()

    def take(self, number: int) -> Parts:
        """The packed moments of the last forward, batch `number`; ready for the next."""
        each = [(name, *call) for name, calls in self._calls.items() for call in calls]
        single = {name for name, calls in self._calls.items() if len(calls) == 1}
        packed_calls: dict[int, Floats] = {}
        for places in alike(each, single):
            calls = [each[place] for place in places]
            layout, rows = self._packed(calls, with_classes=calls[0][0] in single)
            refuse_non_finite(layout, rows, number)
            packed_calls |= zip(places, (part for _, part in apart(layout, rows)), strict=True)
        found: dict[str, list[Floats]] = {name: [] for name in self._calls}
        for place, (name, *_) in enumerate(each):  # the last call of a layer weighs most
            found[name].append(packed_calls[place])
        self._calls.clear()
        taken: dict[str, Floats] = {}
        for name, parts in found.items():
            if self._normalise and len(parts) > 1 and len(parts) * parts[0].shape[1] <= _CALLED:
                taken |= {call_name(name, place): part for place, part in enumerate(parts)}
            taken[name] = reduce(merged, parts)
        return taken

    def means_of_images(self, name: str) -> Floats:
        """The means of a layer's channels in each image of the last forward, (N, C)."""
        means = np.concatenate([m.double().cpu().numpy() for m, *_ in self._calls[name]])
        return np.asarray(means + self.pivots[name].double().cpu().numpy())

    def so_far(self, name: str) -> Moments:
        """What a layer has seen in the forward that is running."""
        calls = [self._packed([(name, *call)])[1] for call in self._calls[name]]
        return unpack(reduce(merged, calls))

    def _packed(self, calls: Sequence[Call], with_classes: bool = False) -> tuple[Layout, Floats]:
        """Calls on as many images side by side; `with_classes` adds to the sums by class."""
        layout, m, q = side_by_side(calls)
        pivot, labels = self._pivot_of(layout), self.labels
        if with_classes and labels is not None and labels.shape[0] == m.shape[0]:
            wide = m.double()
            self.classes.add(layout, wide, wide * wide if q is None else q, labels, pivot)
        if q is None:
            return layout, packed_vectors(m, pivot)
        values = np.repeat([call[3] for call in calls], [size for _, size in layout])
        return layout, packed(m.cpu().numpy(), q.cpu().numpy(), values, pivot)

    def _pivot_of(self, layout: Layout) -> Floats:
        import torch

        known = self._pivots.get(layout)
        if known is None:
            pivots = torch.cat([self.pivots[name] for name, _ in layout])
            known = self._pivots[layout] = pivots.double().cpu().numpy()
        return known

    def _hook(self, norm: TrackingNorm) -> Any:
        own, channels = self._own.get(norm.name), norm.channels

        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = input_of(args, kwargs)
            found = self._reduce(norm.name, channels, x.detach(), norm.last)
            if own is not None:
                found = self._by_own_update(own, found, args, kwargs)
            self._calls.setdefault(norm.name, []).append(found)
            if self._normalise:
                m, q, values = found
                if m.shape[0] * values < 2:
                    raise SingleValueError(norm.name)
                self._set_batch_statistics(norm, m, q)

        return before

    def _record(self, name: str, x: Tensor, channels: int) -> Reduced:
        found = self._reduce(name, channels, x.detach())
        self._calls.setdefault(name, []).append(found)
        return found

    def _by_own_update(
        self, own: OwnUpdate, given: Reduced, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Reduced:
        """The images' moments moved so that together they give what the layer itself takes.

        How much images differ is taken from their whole inputs, by a factor known from one batch.
        """
        m, q, values = given
        q = m * m if q is None else q
        mean, var = own.statistics(args, kwargs)
        mean = mean - self.pivots[own.norm.name].double()
        counted = own.values(args, kwargs)
        spread = own.spread or (1.0, 1.0)
        m_own = _moved(m, mean, spread[0])
        q_own = _moved(q, var + mean.square(), spread[1])
        return m_own, q_own, values if counted is None else counted / m.shape[0]

    def _reduce(self, name: str, channels: int, x: Tensor, last: bool = False) -> Reduced:
        pivot = self.pivots.get(name)
        if pivot is None:
            pivot = self.pivots[name] = pivot_of(channels_second(name, channels, x, last))
        return reduced(name, channels, x, pivot, last)

    def _set_batch_statistics(self, norm: TrackingNorm, m: Tensor, q: Tensor | None) -> None:
        """What train() would normalise with: the batch's mean and biased variance."""
        q = m * m if q is None else q
        mean = m.mean(dim=0)
        if norm.kind.value == "InstanceNorm":
            var = (q - m * m).mean(dim=0)
        else:
            var = q.mean(dim=0).addcmul_(mean, mean, value=-1)
        norm.hold(self.pivots[norm.name] + mean, var.clamp_min_(0))


def _moved(values: Tensor, mean: Tensor, spread: Tensor | float) -> Tensor:
    """Numbers of images, (N, C), given another mean and spread."""
    wide = values.double()
    middle = wide.mean(dim=0)
    return ((wide - middle) * spread + mean).to(values.dtype)
