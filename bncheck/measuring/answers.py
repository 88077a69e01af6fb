"""The tensors in a model's output, whatever they are wrapped in, the most telling first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from torch import Tensor

#: What people call the part of an output, or of the labels, that results are about.
NAMES: Final = (
    *("logits", "out", "output", "outputs", "scores", "probs", "prediction", "predictions"),
    *("pred", "preds", "y", "label", "labels", "target", "targets", "mask", "masks"),
)
#: Wrappers within wrappers are opened so far.
_DEEPEST: Final = 5


def tensors_in(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """Tensors with samples; a loss, which has none, is left out."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.ndim and value.layout is torch.strided and not value.is_complex():
            yield value
    elif depth < _DEEPEST:
        for part in _parts(value):
            yield from tensors_in(part, depth + 1)


def scores_in(output: Any, differentiable: bool = False) -> Iterator[Tensor]:
    """Tensors of fractions, in single precision at least; `differentiable` with their graph."""
    for tensor in tensors_in(output):
        if tensor.is_floating_point():
            found = tensor if differentiable else tensor.detach()
            yield found if found.dtype.itemsize >= 4 else found.float()


def _parts(value: Any) -> Iterable[Any]:
    """What a dict, a sequence, a data class or any object with attributes holds."""
    if isinstance(value, Mapping):
        return _by_name(value)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _by_name(value._asdict())
    if isinstance(value, (tuple, list)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _by_name({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    held = getattr(value, "__dict__", None)
    return _by_name(held) if isinstance(held, dict) and not callable(value) else ()


def _by_name(held: Mapping[Any, Any]) -> list[Any]:
    order = {name: place for place, name in enumerate(NAMES)}
    return [held[key] for key in sorted(held, key=lambda key: order.get(str(key), len(order)))]
