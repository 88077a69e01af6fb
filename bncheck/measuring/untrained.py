"""Which layers still hold the weights that PyTorch gives a new one.

nn.Linear and nn.Conv*d start with weights uniform in (-b, b), b = 1/sqrt(fan_in) (Kaiming uniform
with a = sqrt(5)). Training moves some weight beyond b at once, and a uniform distribution of
exactly this width, variance b^2 / 3, does not come about by chance.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import nn

#: Fewer weights have too uncertain a variance.
_LEAST: Final = 256
#: The variance of n uniform weights is within 4 standard errors, sqrt(4 / 5 / n) of itself each.
_ERRORS: Final = 4.0
#: The largest of n uniform weights is this near to the bound, but for one time in e^20.
_GAP: Final = 20.0


def untrained_layers(model: nn.Module) -> tuple[str, ...]:
    """Names of convolutions and linear layers at PyTorch's initial weights, in order."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    return tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, _ConvNd)) and _at_initial_weights(module)
    )


def _at_initial_weights(module: nn.Module) -> bool:
    weight = module.weight.detach().double()  # type: ignore[operator]
    number = weight.numel()
    if number < _LEAST:
        return False
    bound = 1 / math.sqrt(number / weight.shape[0])
    largest = float(weight.abs().max())
    if largest > bound * (1 + 1e-6) or largest < bound * (1 - _GAP / number):
        return False
    off = float(weight.square().mean()) / (bound**2 / 3) - 1
    return abs(off) <= _ERRORS * math.sqrt(4 / 5 / number)
