# torch types the attributes of a Module as Tensor or Module, whatever they are.
# mypy: disable-error-code="operator,union-attr,index,arg-type,no-any-return,no-untyped-call"
# mypy: disable-error-code="unused-ignore"
"""What patterns are made of: networks from parts, with values such that luck cannot help.

Gammas of both signs and a zero, means far from zero.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

IMAGE = (3, 9, 9)


@dataclass(frozen=True)
class Pattern:
    """A network, one sample's shape, and what folding must leave; `reason` is part of its words."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = IMAGE
    kept: int = 0
    reason: str = ""
    dtype: torch.dtype = torch.float32
    merged: int = 0


class Fn(nn.Module):
    """A network from parts and a function of them."""

    def __init__(self, run: Callable[..., object], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> object:
        return self.run(self, x)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and statistics: negative gammas and one of zero, no mean near zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "weight", None) is not None and hasattr(module, "eps"):
                module.weight.normal_(0, 1, generator=generator).add_(0.3)
                if module.weight.numel() > 2:
                    module.weight[1] = 0.0
                    module.weight[2] = -0.7
                module.bias.normal_(0.4, 1, generator=generator)
            if isinstance(getattr(module, "running_mean", None), Tensor):
                module.running_mean.normal_(0.5, 1, generator=generator)
                module.running_var.uniform_(0.3, 2.5, generator=generator)
    return model.eval()


def positive(model: nn.Module) -> nn.Module:
    for module in randomised(model).modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.weight.data.abs_().add_(0.1)
    return model


def shiftless(model: nn.Module) -> nn.Module:
    """beta = mean * gamma / sqrt(var + eps) = 0."""
    for module in randomised(model).modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            module.running_mean.zero_()
            module.bias.data.zero_()
    return model


def chain(*parts: nn.Module) -> Callable[[], nn.Module]:
    return lambda: randomised(nn.Sequential(*copy.deepcopy(parts)))


def net(run: Callable[..., object], **parts: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: randomised(Fn(run, **{name: part() for name, part in parts.items()}))


def conv(i: int = 3, o: int = 6, k: int = 3, **options: object) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(i, o, k, **options)  # type: ignore[arg-type]


def bn(channels: int = 6, **options: object) -> Callable[[], nn.Module]:
    return lambda: nn.BatchNorm2d(channels, **options)  # type: ignore[arg-type]
