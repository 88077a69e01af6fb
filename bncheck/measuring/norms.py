"""The normalisation layers of a module that keep running statistics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bncheck.core.errors import BncheckError
from bncheck.layers.normalisers import is_input_normaliser
from bncheck.measuring.keeping import kept
from bncheck.reading.kinds import NormKind, kind_of_class
from bncheck.reading.roles import STATISTICS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrackingNorm:
    """One layer, whatever its class and whatever it calls its running mean and variance.

    Their shape is (C,), or has sizes of 1 around C: (1, C, 1, 1). `last` says that channels are on
    the last axis of inputs whose second axis has as many entries.
    """

    name: str
    module: Any
    kind: NormKind
    mean_name: str = "running_mean"
    var_name: str = "running_var"
    last: bool = False

    @property
    def mean(self) -> Tensor:
        """The running mean, (C,); what is written to it is written to the module's."""
        return _flat(getattr(self.module, self.mean_name))

    @property
    def var(self) -> Tensor:
        """The running variance, as `mean`."""
        return _flat(getattr(self.module, self.var_name))

    def hold(self, mean: Tensor, var: Tensor) -> None:
        """Write statistics, (C,) each, to the module's; without gradients."""
        for name, values in ((self.mean_name, mean), (self.var_name, var)):
            held = getattr(self.module, name)
            held.copy_(values if held.ndim == 1 else values.view_as(held))

    @property
    def channels(self) -> int:
        """The number of channels."""
        return int(getattr(self.module, self.mean_name).numel())


def norms_of(model: nn.Module) -> list[TrackingNorm]:
    """All layers with running statistics under the names that files know, which may be none."""
    found = []
    for name, module in model.named_modules():
        held = (module.named_parameters(recurse=False), module.named_buffers(recurse=False))
        own = {**vars(module), **dict(held[0]), **dict(held[1])}
        roles = {role: own_name for own_name, role in STATISTICS.items() if own_name in own}
        mean, var = (roles.get(role, role) for role in ("running_mean", "running_var"))
        if is_input_normaliser(name, own):
            continue
        if _are_statistics(own.get(mean), own.get(var)):
            kind = kind_of_class(type(module).__name__) or NormKind.BATCH
            found.append(TrackingNorm(name, module, kind, mean, var))
    return found


def untracked_norms(model: nn.Module) -> dict[str, Any]:
    """The BatchNorms that normalise with the batch in eval mode too, for want of statistics."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and (module.running_mean is None or module.running_var is None)
    }


def _are_statistics(mean: object, var: object) -> bool:
    import torch

    return (
        isinstance(mean, torch.Tensor)
        and isinstance(var, torch.Tensor)
        and mean.ndim > 0
        and mean.shape == var.shape
        and mean.numel() == max(mean.shape)
    )


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().view(-1)


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Everything in eval mode for the time being; modes, and what forwards write, are put back."""
    flags = [(module, module.training) for module in model.modules()]
    with kept(model):
        try:
            model.eval()
            yield
        finally:
            for module, flag in flags:
                if module.training is not flag:
                    module.training = flag


@contextlib.contextmanager
def spare_statistics(norms: Sequence[TrackingNorm]) -> Iterator[None]:
    """Put copies in the place of every layer's statistics, and the originals back afterwards.

    The copies may be written to: not a bit of the model's own buffers changes, exceptions or not.
    """
    originals = [
        (norm, getattr(norm.module, norm.mean_name), getattr(norm.module, norm.var_name))
        for norm in norms
    ]
    try:
        for norm, mean, var in originals:
            _replace(norm, _spare(mean), _spare(var))
        yield
    finally:
        for norm, mean, var in originals:
            _replace(norm, mean, var)


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
                norm.mean.copy_(torch.from_numpy(mean))
                norm.var.copy_(torch.from_numpy(var))
        yield


def _spare(tensor: Tensor) -> Tensor:
    """A copy of the same kind: a module takes nothing but a parameter in a parameter's place."""
    import torch

    copied = tensor.detach().clone()
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(copied, requires_grad=False)
    return copied


def _replace(norm: TrackingNorm, mean: Tensor, var: Tensor) -> None:
    setattr(norm.module, norm.mean_name, mean)
    setattr(norm.module, norm.var_name, var)


def channels_second(name: str, channels: int, x: Tensor, last: bool = False) -> Tensor:
    """(N, C), (N, C, L), (N, C, H, W), ... as (N, C, L); channels may also come last."""
    if x.ndim >= 2 and x.shape[1] == channels and not (last and x.shape[-1] == channels):
        return x.reshape(x.shape[0], channels, -1)
    if x.ndim >= 2 and x.shape[-1] == channels:
        return x.movedim(-1, 1).reshape(x.shape[0], channels, -1)
    raise BncheckError(
        f"layer {name} has {channels} channels and gets an input of shape {tuple(x.shape)}",
        "check --model-arg and the shape of the data",
    )
