"""Internal covariate shift as Santurkar et al. define it (their definition 2.1).

G_i is the gradient of layer i at the weights W of a snapshot, on one batch. W' is W after one step
of plain SGD on that batch. G'_i is the gradient of layer i where all layers before it are those of
W' already, and it and the layers after it still those of W. The difference of the two is what the
layer's problem changed by because the others moved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bncheck.surveying.objective import Objective, Vector, dot, moved, norm

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class LayerShift:
    """||G - G'||, that over ||G||, and the cosine between the two; NaN where G is zero."""

    layer: str
    l2: float
    relative: float
    cosine: float


def covariate_shift(objective: Objective, eta: float, gradient: Vector) -> tuple[LayerShift, ...]:
    """A forward and a backward pass for each layer that has a weight matrix or kernel."""
    names = list(objective.named)
    theta, stepped = objective.start, moved(objective.start, gradient, eta)
    mixed = list(theta)
    found = []
    for layer, own in _in_order(objective, names):
        if any(theta[place].ndim > 1 for place in own):
            _, there = objective.gradient(mixed, own)
            found.append(_shift(layer, [gradient[place] for place in own], there))
        for place in own:
            mixed[place] = stepped[place]
    return tuple(found)


def _shift(layer: str, before: Vector, after: Vector) -> LayerShift:
    change = norm([b - a for a, b in zip(before, after, strict=True)])
    length = norm(before)
    if not length:
        return LayerShift(layer, change, math.nan, math.nan)
    lengths = length * norm(after)
    cosine = dot(before, after) / lengths if lengths and math.isfinite(lengths) else math.nan
    return LayerShift(layer, change, change / length, cosine)


def _in_order(objective: Objective, names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Layers (modules that hold parameters) with the places of these, in the order of execution.

    One that is never called itself, such as the projection inside of an attention, comes with its
    parent.
    """
    order = _calls(objective)
    layers: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        layers.setdefault(name.rpartition(".")[0], []).append(place)

    def called(layer: str) -> tuple[int, int]:
        parent, missing = layer, 0
        while parent not in order and parent:
            parent, missing = parent.rpartition(".")[0], missing + 1
        return order.get(parent, len(order)), missing

    return sorted(layers.items(), key=lambda item: called(item[0]))


def _calls(objective: Objective) -> dict[str, int]:
    """The modules in the order in which a forward first enters them."""
    import torch

    order: dict[str, int] = {}
    handles = []

    def note(name: str) -> object:
        def before(_module: nn.Module, _inputs: object) -> None:
            order.setdefault(name, len(order))

        return before

    try:
        for name, module in objective.model.named_modules():
            handles.append(module.register_forward_pre_hook(note(name)))
        with torch.no_grad():
            objective.output([tensor.clone() for tensor in objective.start])
    finally:
        for handle in handles:
            handle.remove()
    return order
