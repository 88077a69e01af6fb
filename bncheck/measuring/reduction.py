"""From a layer's input to two numbers for each image and channel, in single precision.

A mean and a mean square about a pivot near the mean: about 0, the square of a large mean would
swallow the variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from bncheck.measuring.norms import channels_second

if TYPE_CHECKING:
    from torch import Tensor

    #: (N, C) means and mean squares about the pivot, and how many values an image has. Where it has
    #: one, the mean square is the square of the mean, and None stands for it.
    Reduced: TypeAlias = tuple[Tensor, Tensor | None, float]

#: Numbers handled at a time: 1 MiB of them, with as much again for what is computed.
_PORTION: Final = 1 << 18


def reduced(name: str, channels: int, x: Tensor, pivot: Tensor, last: bool = False) -> Reduced:
    """Reduce a layer's input, whose channels are the second axis, or the last one."""
    if x.ndim == 2 and x.shape[1] == channels:
        return in_single(x) - pivot, None, 1
    images = (channels_second(name, channels, part, last) for part in portions(x))
    m, q = _joined([_reduced(part, pivot) for part in images])
    return m, q, x.numel() // m.numel()


def pivot_of(images: Tensor) -> Tensor:
    """The channel means of (N, C, values); 0 where there is none."""
    return in_single(images).mean(dim=(0, 2)).nan_to_num(0.0, 0.0, 0.0)


def portions(x: Tensor, least: int = 1) -> Sequence[Tensor]:
    """Groups of images, `least` or more, so few that what is computed from them stays in the cache.

    Passes over main memory are what measuring costs on a CPU: this leaves one of them.
    """
    if x.device.type != "cpu" or x.numel() <= _PORTION or not x.shape[0]:
        return [x]
    return x.split(max(least, _PORTION * x.shape[0] // x.numel()))  # type: ignore[no-any-return,no-untyped-call]


def in_single(x: Tensor) -> Tensor:
    """Half precision as single."""
    return x.float() if x.dtype.itemsize < 4 else x


def _reduced(x: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor]:
    deviation = in_single(x) - pivot[:, None]
    return deviation.mean(dim=2), deviation.square_().mean(dim=2)


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    import torch

    if len(parts) == 1:
        return parts[0]
    m, q = zip(*parts, strict=True)
    return torch.cat(m), torch.cat(q)
