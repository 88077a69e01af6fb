"""Samples of the user's as arrays that a program takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bncheck.shipping.sides import Array

if TYPE_CHECKING:
    import torch


def as_arrays(tensors: Sequence[torch.Tensor], most: int | None) -> list[Array]:
    """The first `most` samples; none where there are fewer."""
    if most is not None and any(len(tensor) < most for tensor in tensors):
        return []
    return [to_array(tensor[:most]) for tensor in tensors]


def to_array(tensor: torch.Tensor) -> Array:
    """NumPy has no bfloat16 of its own, but ml_dtypes' has the same bits."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        bits: Array = tensor.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    return np.asarray(tensor.numpy())
