"""Samples of the user's as arrays that a program takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bncheck.folding.program.sizes import fixed_size
from bncheck.shipping.sides import Array

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram


def fixed_batch(program: ExportedProgram) -> int | None:
    """How many samples a program takes where that cannot be chosen."""
    from bncheck.folding.program.exporting import user_inputs

    values = [node.meta["val"] for node in user_inputs(program) if "val" in node.meta]
    sizes = [value.shape[0] for value in values if hasattr(value, "dtype") and value.ndim]
    fixed = [known for size in sizes if (known := fixed_size(size)) is not None]
    return fixed[0] if fixed and len(fixed) == len(sizes) else None


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
