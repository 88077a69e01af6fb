"""Numbers as after training, for a model that nobody trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def trained(model: nn.Module, example: tuple[Any, ...]) -> nn.Module:
    """Affines of both signs, and statistics of what the layers see: as after training."""
    generator = torch.Generator().manual_seed(0)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    norms: list[Any] = []
    with torch.no_grad():
        for module in model.modules():
            values = [getattr(module, role, None) for role in ("weight", "bias")]
            if "Norm" not in type(module).__name__ or not isinstance(values[0], Tensor):
                continue
            uniform(values[0], 0.6, 1.4)
            values[0][torch.rand(values[0].shape, generator=generator) < 0.3] *= -1
            if isinstance(values[1], Tensor):
                uniform(values[1], -0.3, 0.3)
        model.eval()
        hooks = [m.register_forward_pre_hook(_measure) for m in model.modules() if _is_frozen(m)]
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                norms.append(module.train())
                module.momentum = None
        try:
            for _ in range(6):  # two samples each: from the first layer to the last
                model(*torch.utils._pytree.tree_map(_again, example))
        except (ValueError, RuntimeError):  # one value a channel
            pass
        for hook in hooks:
            hook.remove()
        for norm in norms:
            norm.running_mean.nan_to_num_(0)
            norm.running_var.clamp_(min=0.05).nan_to_num_(1.0)
            norm.momentum = 0.1
    return model.eval()


def _again(item: Any) -> Any:
    return torch.randn_like(item) if isinstance(item, Tensor) and item.is_floating_point() else item


def _is_frozen(module: nn.Module) -> bool:
    """Whether it is a normalisation of its library's own, with statistics and no mode."""
    own = getattr(module, "running_mean", None)
    return isinstance(own, Tensor) and not isinstance(module, nn.modules.batchnorm._BatchNorm)


def _measure(module: Any, inputs: tuple[Tensor, ...]) -> None:
    variances, means = torch.var_mean(inputs[0], [0, *range(2, inputs[0].dim())])
    module.running_mean.copy_(means)
    module.running_var.copy_(variances.clamp(min=0.05))
