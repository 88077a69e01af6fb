"""Values of a file become what the model wants: tensors, scaled, normalised, channels first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from bncheck.core.errors import BncheckError
from bncheck.data.batches import DataOptions

if TYPE_CHECKING:
    from torch import Tensor

_CHANNELS: Final = (1, 3, 4)


def as_tensor(rows: Any) -> Tensor:
    """Rows of an array or a tensor as a tensor in native byte order."""
    import numpy as np
    import torch

    if isinstance(rows, torch.Tensor):
        return rows
    array = np.array(rows)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))


def prepared_input(x: Tensor, name: str, options: DataOptions) -> Tensor:
    """Raw values scaled and normalised; whole numbers as channels-last images made NCHW."""
    import torch

    if x.dtype == torch.uint8:
        if not options.normalises:
            raise BncheckError(
                "holds raw pixels (uint8), and how the model expects them is unknown",
                "give --scale 255 and, as in training, --mean and --std",
                name,
            )
        if x.ndim == 3:
            x = x.unsqueeze(1)
        elif x.ndim == 4 and x.shape[-1] in _CHANNELS and x.shape[1] not in _CHANNELS:
            x = x.permute(0, 3, 1, 2)
    if not options.normalises:
        return x
    x = x.float() / (1.0 if options.scale is None else options.scale)
    if options.mean:
        x = x - _per_channel(options.mean, x, "--mean")
    if options.std:
        x = x / _per_channel(options.std, x, "--std")
    return x


def _per_channel(values: Sequence[float], x: Tensor, option: str) -> Tensor:
    import torch

    channels = x.shape[1] if x.ndim > 1 else 1
    if len(values) not in (1, channels):
        raise BncheckError(
            f"{option} has {len(values)} values, the data have {channels} channels",
            "give one value, or one for each channel",
        )
    return torch.tensor(values, dtype=x.dtype).reshape(1, -1, *[1] * (x.ndim - 2))
