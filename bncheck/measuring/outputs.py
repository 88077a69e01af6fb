"""Outputs of convolutions, linear layers and activations: what nets without BatchNorm also have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Output:
    """One module whose output is measured. `width` is what it says of its channels, or None."""

    name: str
    module: nn.Module
    width: int | None

    def tensor(self, result: Any) -> Tensor | None:
        """The tensor to measure; None for what has no samples and channels."""
        import torch

        if isinstance(result, torch.Tensor) and result.is_floating_point() and result.ndim >= 2:
            return result
        return None

    def channels(self, x: Tensor) -> int:
        """The number of channels: those of (N, C, H, W) come second, of (N, L, C) last."""
        if self.width is not None:
            return self.width
        return int(x.shape[-1 if x.ndim == 3 else 1])


def find_outputs(model: nn.Module) -> list[Output]:
    """Every convolution, linear layer and activation that is a module of its own.

    Activations that are called as functions (torch.relu) have no module to measure; the layers
    before and after them do.
    """
    from torch import nn
    from torch.nn.modules import activation
    from torch.nn.modules.conv import _ConvNd

    others = ("MultiheadAttention", "Softmax", "LogSoftmax", "Softmax2d", "Softmin")
    activations: tuple[type[nn.Module], ...] = tuple(
        getattr(activation, name) for name in activation.__all__ if name not in others
    )
    found = []
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd):
            found.append(Output(name, module, module.out_channels))
        elif isinstance(module, nn.Linear):
            found.append(Output(name, module, module.out_features))
        elif isinstance(module, activations):
            found.append(Output(name, module, None))
    return found
