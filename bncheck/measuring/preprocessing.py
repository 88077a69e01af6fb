"""Which way of preparing the images the statistics were learned on.

The first normalisation layer sees nothing but a linear function of the input, so its statistics
remember how training prepared it. The given inputs are brought to 0..1 by their own range and then
prepared in every usual way; each is sent through the stem as far as that layer, and the one with
the smallest W2 is what the layer expects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from bncheck.data import Batch, Batches
from bncheck.layers.norm_layer import NormLayer
from bncheck.measuring.collector import Collector
from bncheck.measuring.deviation import deviation
from bncheck.measuring.forward import forward, prepared
from bncheck.measuring.norms import TrackingNorm, in_eval_mode
from bncheck.measuring.results import GIVEN, Candidate

if TYPE_CHECKING:
    from torch import Tensor, nn

    Transform: TypeAlias = Callable[[Tensor], Tensor]

_SAMPLES = 256
#: Every candidate is tried on so many of them, and the best of these on all.
_TRIED = 32
_KEPT = 3
#: mean, then standard deviation, of pixels in 0..1
_NORMALISATIONS = {
    "ImageNet mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10 mean and std": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "mean 0.5 and std 0.5": ((0.5,), (0.5,)),
    "MNIST mean and std": ((0.1307,), (0.3081,)),
}


class _Reached(Exception):  # noqa: N818 - not an error: it ends a forward at the first layer
    pass


def search(
    model: nn.Module, norm: TrackingNorm, layer: NormLayer, data: Batches, device: str
) -> list[Candidate]:
    """All candidates, the best first; none for inputs that are not images."""

    inputs = _images(model, data, device)
    if inputs is None:
        return []
    stem = _Stem(model, norm, layer)
    every = list(_candidates(inputs))
    # A few images tell the bad ones; all of them decide among the rest.
    tried = [(stem.w2(transform(inputs[:_TRIED])), name, transform) for name, transform in every]
    ranked = sorted((t for t in tried if t[0] is not None), key=lambda found: found[0] or 0.0)
    kept = {name for _, name, _ in ranked[:_KEPT]} | {GIVEN}
    found = []
    for few, name, transform in ranked:
        w2 = stem.w2(transform(inputs)) if name in kept else few
        found.append(Candidate(name, w2 or 0.0, transform))
    return sorted(found, key=lambda candidate: (candidate.name not in kept, candidate.w2))


def _images(model: nn.Module, data: Batches, device: str) -> Tensor | None:
    """The first images, where the model has one input and that is images."""
    import torch

    parts: list[Tensor] = []
    for number, batch in enumerate(data):
        if len(batch.inputs) != 1 or batch.inputs[0].ndim != 4:
            return None
        parts.append(prepared(model, batch, number, device).inputs[0])
        if (
            parts[-1].shape[1:] != parts[0].shape[1:]
            or sum(len(part) for part in parts) >= _SAMPLES
        ):
            break
    same = [part for part in parts if part.shape[1:] == parts[0].shape[1:]]
    images = torch.cat(same)[:_SAMPLES]
    return images if images.is_floating_point() and images.shape[1] in (1, 3) else None


def _candidates(x: Tensor) -> Iterator[tuple[str, Transform]]:
    """As given, then every way to prepare pixels, each also with channels swapped or inverted."""
    import torch

    colours = x.shape[1] == 3
    low = x.amin(dim=(0, 2, 3), keepdim=True)
    span = (x.amax(dim=(0, 2, 3), keepdim=True) - low).clamp_min(1e-12)

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
    plain.append(("mean 0 and std 1", _standardise(mean_, std_.clamp_min(1e-12))))

    yield GIVEN, lambda images: images
    if colours:
        yield "red and blue swapped", lambda images: images.flip(1)
    yield "inverted", lambda images: 2 * low + span - images
    for name, transform in plain:
        yield name, _then(unit, transform)
        yield f"{name}, inverted", _then(lambda images: 1 - unit(images), transform)
        if colours:
            yield f"{name}, red and blue swapped", _then(lambda i: unit(i).flip(1), transform)


def _standardise(mean: Tensor, std: Tensor) -> Transform:
    return lambda images: (images - mean) / std


def _then(first: Transform, second: Transform) -> Transform:
    return lambda images: second(first(images))


class _Stem:
    """The model up to its first normalisation layer."""

    def __init__(self, model: nn.Module, norm: TrackingNorm, layer: NormLayer) -> None:
        self._model = model
        self._norm = norm
        self._layer = layer

    def w2(self, x: Tensor) -> float | None:
        """W2 of the layer on these images; None where the model does not take them."""
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
        name = self._norm.name
        moments = collector.take(0)
        return deviation(self._layer, moments[name]).w2 if name in moments else None
