"""The usual ways to prepare images, vectors, signals and sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

from bncheck.measuring.results import GIVEN

if TYPE_CHECKING:
    from torch import Tensor

    Transform: TypeAlias = Callable[[Tensor], Tensor]
    Named: TypeAlias = Iterator[tuple[str, Transform]]

#: mean, then standard deviation, of pixels in 0..1
_NORMALISATIONS: Final = {
    "ImageNet mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10 mean and std": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "mean 0.5 and std 0.5": ((0.5,), (0.5,)),
    "MNIST mean and std": ((0.1307,), (0.3081,)),
}
#: Units of bytes, of 16-bit sound, and of measures.
_UNITS: Final = (255.0, 32768.0, 1000.0, 100.0)
_TINY: Final = 1e-12


#: Ways that take their numbers from the data that are given: of these, any scale and shift is one.
OF_THESE_DATA: Final = (
    "mean 0 and std 1",
    "mean 0 and std 1, inverted",
    "every feature with mean 0 and std 1",
    "every feature in 0..1",
)


def preparations(x: Tensor) -> Named:
    """As given, then what is usual for inputs of this shape: (N, F), (N, T, F) or images."""
    yield GIVEN, lambda x: x
    if x.ndim == 4 and x.shape[1] in (1, 3):
        yield from _of_images(x)
    else:
        yield from _of_numbers(x)


def _of_images(x: Tensor) -> Named:
    """Every way to prepare pixels, each also with channels swapped or inverted."""
    import torch

    colours = x.shape[1] == 3
    low = x.amin(dim=(0, 2, 3), keepdim=True)
    span = (x.amax(dim=(0, 2, 3), keepdim=True) - low).clamp_min(_TINY)

    def unit(images: Tensor) -> Tensor:
        return (images - low) / span

    def column(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=x.dtype, device=x.device).reshape(1, -1, 1, 1)

    plain: list[tuple[str, Transform]] = [
        ("pixels in 0..1", lambda u: u),
        ("pixels in 0..255", lambda u: u * 255),
    ]
    for name, (mean, std) in _NORMALISATIONS.items():
        if len(mean) in (1, x.shape[1]):
            plain.append((name, _standardise(column(mean), column(std))))
    base = unit(x)
    mean_, std_ = base.mean(dim=(0, 2, 3), keepdim=True), base.std(dim=(0, 2, 3), keepdim=True)
    plain.append(("mean 0 and std 1", _standardise(mean_, std_.clamp_min(_TINY))))

    if colours:
        yield "red and blue swapped", lambda images: images.flip(1)
    yield "inverted", lambda images: 2 * low + span - images
    for name, transform in plain:
        yield name, _then(unit, transform)
        yield f"{name}, inverted", _then(lambda images: 1 - unit(images), transform)
        if colours:
            yield f"{name}, red and blue swapped", _then(lambda i: unit(i).flip(1), transform)


def _of_numbers(x: Tensor) -> Named:
    """Standardised by feature or by sample, in other units, signs, orders and axes."""
    each = tuple(range(1, x.ndim))
    mean, std = x.mean(dim=0, keepdim=True), x.std(dim=0, keepdim=True)
    varies = std > _TINY
    if x.ndim > 2:
        dims = tuple(range(x.ndim - 1))
        mean, std = x.mean(dim=dims, keepdim=True), x.std(dim=dims, keepdim=True)
        varies = std > _TINY
    low = x.amin(dim=0, keepdim=True)
    span = x.amax(dim=0, keepdim=True) - low
    yield "every feature with mean 0 and std 1", lambda x: (x - mean) / std.where(varies, 1.0)
    yield "every feature in 0..1", lambda x: (x - low) / span.clamp_min(_TINY)
    if x[0].numel() > 1:
        yield (
            "every sample with mean 0 and std 1",
            lambda x: (x - x.mean(each, keepdim=True)) / x.std(each, keepdim=True).clamp_min(_TINY),
        )
    yield "the other sign", lambda x: -x
    whole = float(x.mean()), max(float(x.std()), _TINY)
    yield "mean 0 and std 1", lambda x: (x - whole[0]) / whole[1]
    for unit in _UNITS:
        yield f"x / {unit:g}", _times(1 / unit)
        yield f"x * {unit:g}", _times(unit)
    if bool((x > -1).all()) and float(x.amax()) > 1:
        yield "log(1 + x)", lambda x: x.log1p()
    yield "the order reversed", lambda x: x.flip(1)
    if x.ndim == 3:
        yield "the features reversed", lambda x: x.flip(2)
        if x.shape[1] == x.shape[2]:
            yield "the two axes exchanged", lambda x: x.transpose(1, 2)


def _times(factor: float) -> Transform:
    return lambda x: x * factor


def _standardise(mean: Tensor, std: Tensor) -> Transform:
    return lambda images: (images - mean) / std


def _then(first: Transform, second: Transform) -> Transform:
    return lambda images: second(first(images))
