"""The normalisation layers of a module that keep running statistics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bncheck.reading.kinds import NormKind, kind_of_class

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrackingNorm:
    """One layer: whatever its class, it holds running_mean and running_var."""

    name: str
    module: Any
    kind: NormKind

    @property
    def channels(self) -> int:
        """The number of channels."""
        return int(self.module.running_mean.numel())


def norms_of(model: nn.Module) -> list[TrackingNorm]:
    """All layers with running statistics, which may be none."""
    import torch

    found = []
    for name, module in model.named_modules():
        mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if (
            isinstance(mean, torch.Tensor)
            and isinstance(var, torch.Tensor)
            and mean.ndim == 1
            and mean.shape == var.shape
        ):
            kind = kind_of_class(type(module).__name__) or NormKind.BATCH
            found.append(TrackingNorm(name, module, kind))
    return found


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Everything in eval mode for the time being, each module's own flag put back afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextlib.contextmanager
def spare_statistics(norms: Sequence[TrackingNorm]) -> Iterator[None]:
    """Put copies in the place of every layer's statistics, and the originals back afterwards.

    The copies may be written to: not a bit of the model's own buffers changes, exceptions or not.
    """
    originals = [(norm.module, norm.module.running_mean, norm.module.running_var) for norm in norms]
    try:
        for module, mean, var in originals:
            _replace(module, mean.detach().clone(), var.detach().clone())
        yield
    finally:
        for module, mean, var in originals:
            _replace(module, mean, var)


@contextlib.contextmanager
def with_statistics(
    norms: Sequence[TrackingNorm], statistics: Mapping[str, tuple[Floats, Floats]]
) -> Iterator[None]:
    """Other running statistics for the time being."""
    import torch

    with spare_statistics(norms):
        for norm in norms:
            if norm.name in statistics:
                mean, var = statistics[norm.name]
                norm.module.running_mean.copy_(torch.from_numpy(mean))
                norm.module.running_var.copy_(torch.from_numpy(var))
        yield


def _replace(module: Any, mean: Tensor, var: Tensor) -> None:
    module.running_mean = mean
    module.running_var = var
