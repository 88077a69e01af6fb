"""Calls of layers on as many images, side by side in one array."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.measuring.class_means import Layout, apart
from bncheck.measuring.moments import are_finite

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float64]
    #: A `Reduced` behind the name of its layer.
    Call: TypeAlias = tuple[str, Tensor, Tensor | None, float]


def alike(calls: Sequence[Call], single: Container[str]) -> Iterator[list[int]]:
    """The places of calls on as many images and one device; `single` layers, called once, apart."""
    groups: dict[object, list[int]] = {}
    for place, (name, m, q, _) in enumerate(calls):
        groups.setdefault((m.shape[0], m.device, q is None, name in single), []).append(place)
    yield from groups.values()


def side_by_side(calls: Sequence[Call]) -> tuple[Layout, Tensor, Tensor | None]:
    """The layers' names and channels, their means and their mean squares, (N, C).

    Where both are asked for they are in float64.
    """
    import torch

    layout = tuple((name, m.shape[1]) for name, m, _, _ in calls)
    squares = [q for _, _, q, _ in calls if q is not None]
    means = torch.cat([m for _, m, _, _ in calls], dim=1)
    return (
        (layout, means.double(), torch.cat(squares, dim=1).double())
        if squares
        else (layout, means, None)
    )


def refuse_non_finite(layout: Layout, rows: Floats, number: int) -> None:
    """Raise BncheckError where a layer saw NaN or infinity in the batch of this number."""
    if are_finite(rows):
        return
    name = next(name for name, part in apart(layout, rows) if not are_finite(part))
    raise BncheckError(
        f"batch {number} reaches layer {name} with NaN or infinity",
        "look at this batch and the layers before; half precision ends at 65504",
    )
