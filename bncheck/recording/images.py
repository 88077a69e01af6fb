"""What every image of one call is like, channel by channel, and what a batch of them makes.

Measured where the images are, be it on an accelerator, and brought together once a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bncheck.measuring.moments import Moments
from bncheck.measuring.norms import channels_second
from bncheck.measuring.reduction import in_single, pivot_of, portions
from bncheck.recording.batch import Batch, noise_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float64]

#: A mean more than 30 standard deviations from 0 needs a pivot: in single precision its square
#: swallows the variance.
_FAR: Final = 1000.0
#: Images whose mean is the pivot: near enough for single precision.
_PIVOT: Final = 4


@dataclass(slots=True)
class Call:
    """One call, still where it was computed: per image mean and mean square about the pivot."""

    m: Tensor
    q: Tensor
    pivot: Tensor
    largest: Tensor
    values: float


def measured(name: str, channels: int, x: Tensor) -> Call:
    """One call, of a layer with so many channels."""
    import torch

    parts = [_portion(channels_second(name, channels, part)) for part in portions(x)]
    if any(part is None for part in parts):
        pivot = pivot_of(channels_second(name, channels, x[:_PIVOT]))
        parts = [_portion(channels_second(name, channels, part), pivot) for part in portions(x)]
    else:
        pivot = x.new_zeros(channels, dtype=torch.float32)
    found = [part for part in parts if part is not None]
    m, q, largest = (torch.cat([part[place] for part in found]) for place in range(3))
    return Call(m, q, pivot, largest.max(), x.numel() / m.numel())


def batches_of(calls: Mapping[str, Sequence[Call]]) -> dict[str, Batch]:
    """By layer what its calls of a step make together."""
    moments = _moments([call for of_layer in calls.values() for call in of_layer])
    found, place = {}, 0
    for name, of_layer in calls.items():
        found[name] = _batch([moments[place + n] for n in range(len(of_layer))], of_layer)
        place += len(of_layer)
    return found


def _portion(images: Tensor, pivot: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor] | None:
    """Mean and mean square of every image and channel, and the largest value.

    Without a pivot nothing is copied, but single precision loses the variance where means are far
    larger: then, and on accelerators, where looking would make them wait, None.
    """
    import torch

    low, high = torch.aminmax(images)
    largest = torch.maximum(high.abs(), low.abs()).float().reshape(1)
    values = in_single(images)
    if pivot is not None:
        values = values - pivot[:, None]
    elif values.device.type != "cpu":
        return None
    number = values.shape[2]
    m = values.mean(dim=2) if number > 1 else values[:, :, 0]
    norm = torch.linalg.vector_norm(values, dim=2) if number > 1 else m
    q = norm.square() / number
    if pivot is None and bool((m.mean(dim=0).square() > _FAR * _variance(m, q)).any()):
        return None
    return m, q, largest


def _variance(m: Tensor, q: Tensor) -> Tensor:
    return q.mean(dim=0) - m.mean(dim=0).square()


def _batch(each: Sequence[Moments], calls: Sequence[Call]) -> Batch:
    with np.errstate(invalid="ignore", over="ignore"):
        var = _average([one.unbiased_var for one in each])
        of_means = _average([one.var_of_means for one in each])
        of_squares = _average([one.var_of_squares for one in each])
        images = sum(one.effective_images for one in each)
        return Batch(
            _average([one.mean for one in each]),
            var,
            noise_of(var, of_means, of_squares, images / len(each)),
            images,
            len(each),
            max(float(call.largest) for call in calls),
        )


def _average(arrays: Sequence[Floats]) -> Floats:
    average: Floats = arrays[0] if len(arrays) == 1 else np.mean(arrays, axis=0)
    return average


def _moments(calls: Sequence[Call]) -> dict[int, Moments]:
    """`measuring.moments.of_images` of every call, by its place, all of as many images at once.

    Where the images are, be it on an accelerator. Deviations from the mean may be in single
    precision: about the pivot no mean is much larger than they are.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for place, call in enumerate(calls):
        alike.setdefault((call.m.device, call.m.dtype, call.m.shape[0]), []).append(place)
    found = {}
    for places in alike.values():
        rows = _sums([calls[place] for place in places])
        start = 0
        for place in places:
            call = calls[place]
            width, images = call.m.shape[1], float(call.m.shape[0])
            vectors = rows[:, start : start + width].copy()
            vectors[3:] *= call.values
            weight = images * call.values
            found[place] = Moments(images, weight, weight * call.values, *vectors)
            start += width
    return found


def _sums(calls: Sequence[Call]) -> Floats:
    """Pivot, means of m and q, and sums of products of their deviations: (6, channels of all)."""
    import torch

    with torch.no_grad():
        m, q, pivot = (
            torch.cat(parts, dim=-1)
            for parts in zip(*((call.m, call.q, call.pivot) for call in calls), strict=True)
        )
        if m.device.type == "mps":  # which has no double precision
            m, q, pivot = m.cpu(), q.cpu(), pivot.cpu()
        (mean_m, dm), (mean_q, dq) = _centred(m), _centred(q)
        products = [(one * other).sum(dim=0) for one, other in ((dm, dm), (dq, dq), (dm, dq))]
        vectors = [x.double() for x in (pivot, *products)]
        sums: Floats = torch.stack([vectors[0], mean_m, mean_q, *vectors[1:]]).cpu().numpy()
    return sums


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the rows in double precision, and the rows about it in their own."""
    mean = x.mean(dim=0)
    off = (x - mean).mean(dim=0).double()  # what rounding has left
    exact = mean.double() + off
    return exact, x - exact.to(x.dtype)
