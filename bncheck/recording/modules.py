"""The models of a training as the recorder sees them: unwrapped, their layers found once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from bncheck.core.errors import BncheckError
from bncheck.core.words import a_kind
from bncheck.core.wrappers import INSERTED, without
from bncheck.measuring.norms import TrackingNorm, norms_of
from bncheck.reading.kinds import is_norm_class
from bncheck.reading.roles import AFFINE
from bncheck.subject.given import refuse_scripted
from bncheck.subject.uninitialized import refuse_uninitialized

if TYPE_CHECKING:
    from torch import Tensor, nn

#: A wrapper in a wrapper, and no more than that.
_MOST_WRAPPERS = 4


@dataclass(frozen=True, eq=False)
class Watched:
    """One model: its layers with running statistics, and other layers whose outputs are measured.

    `compiled` models are never hooked; `group` is the process group of DistributedDataParallel.
    """

    name: str
    model: nn.Module
    norms: tuple[TrackingNorm, ...]
    outputs: tuple[tuple[str, nn.Module], ...]
    compiled: bool
    group: Any = None
    _modules: tuple[nn.Module, ...] = field(init=False, repr=False)
    _held: tuple[tuple[str, nn.Module, str, int], ...] = field(init=False, repr=False)

    @classmethod
    def of(cls, name: str, model: Any, every_layer: bool) -> Watched:
        """The model below its wrappers. Raises BncheckError where there is nothing to record."""
        bare, group, compiled = unwrapped(model)
        for place, module in bare.named_modules():
            if is_norm_class(type(module).__name__):
                refuse_uninitialized(module, f"{place}.")
        refuse_scripted(bare)
        norms = tuple(replace(norm, name=_own_name(norm.name)) for norm in norms_of(bare))
        outputs = tuple(_weighted(bare)) if every_layer else ()
        if not norms and not outputs:
            raise BncheckError(
                "has no normalisation layer with running statistics",
                'record the outputs of its other layers with layers="all"',
                f"the model {type(bare).__name__}",
            )
        compiled = compiled or any(_is_compiled(module) for module in bare.modules())
        return cls(name, bare, norms, outputs, compiled, group)

    def __post_init__(self) -> None:
        """All modules as they are now, held so that none of them is another later.

        And the tensors that layers have: asking a module for an attribute that it lacks is slow.
        """
        object.__setattr__(self, "_modules", tuple(self.model.modules()))
        held = (
            (f"{norm.name}.{own}" if norm.name else own, norm.module, own, norm.channels)
            for norm in self.norms
            for own in (norm.mean_name, norm.var_name, *AFFINE, "num_batches_tracked")
            if getattr(norm.module, own, None) is not None
        )
        object.__setattr__(self, "_held", tuple(held))

    @property
    def replaced(self) -> bool:
        """Whether modules were replaced, added or taken away since the model was looked at."""
        now = self.model.modules()
        same = all(one is other for one, other in zip_longest(self._modules, now))
        return not same

    def again(self, every_layer: bool) -> Watched:
        """The same model as it is now. Raises BncheckError where nothing is left to record."""
        now = Watched.of(self.name, self.model, every_layer)
        return replace(now, compiled=self.compiled or now.compiled, group=self.group)

    def differing(self, before: Watched) -> list[str]:
        """The layers that are others than they were."""
        one, other = ({norm.name: norm.module for norm in w.norms} for w in (before, self))
        return [name for name in {**one, **other} if one.get(name) is not other.get(name)]

    @property
    def widths(self) -> dict[str, int]:
        """The channels of every layer."""
        return {norm.name: norm.channels for norm in self.norms}

    @property
    def training(self) -> bool:
        """Whether it is in train()."""
        return self.model.training

    def tensors(self, affine: bool = True) -> dict[str, Tensor]:
        """Every tensor of the layers, by its name; with weight and bias, or without."""
        found = {}
        for name, module, own, channels in self._held:
            if affine or own not in AFFINE:
                tensor = local(getattr(module, own, None))
                if tensor is not None and (own not in AFFINE or tensor.numel() == channels):
                    found[name] = tensor
        return found

    @property
    def sharded(self) -> bool:
        """Whether this process holds but a part of some layer's weight and bias."""
        held = self.tensors()
        return any(
            getattr(norm.module, own, None) is not None
            and (f"{norm.name}.{own}" if norm.name else own) not in held
            for norm in self.norms
            for own in AFFINE
        )


def local(tensor: Any) -> Tensor | None:
    """A tensor as this process holds it, whole; None where it holds a part of it (DTensor).

    The whole would take a collective, for which a process without a recorder would be waited for.
    """
    import torch

    if not isinstance(tensor, torch.Tensor):
        return None
    placements = getattr(tensor, "placements", None)
    if placements is None:
        return tensor.detach()
    if all(placement.is_replicate() for placement in placements):
        found: Tensor = tensor.to_local().detach()  # type: ignore[attr-defined]
        return found
    return None


def _own_name(name: str) -> str:
    """Without what wrappers around single layers put in between."""
    return without(name, INSERTED)


def unwrapped(model: Any) -> tuple[nn.Module, Any, bool]:
    """The user's own module, the process group around it, and whether it is compiled."""
    import torch

    group, compiled = None, False
    for _ in range(_MOST_WRAPPERS):
        if isinstance(model, torch.nn.parallel.DistributedDataParallel):
            group = model.process_group
        compiled = compiled or _is_compiled(model)
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, _wrappers()):
            inner = getattr(model, "module", None)
        if not isinstance(inner, torch.nn.Module):
            break
        model = inner
    if not isinstance(model, torch.nn.Module):
        raise BncheckError(
            f"is {a_kind(model)}, not a torch.nn.Module", "give the model that is trained",
            "the model",
        )  # fmt: skip
    return model, group, compiled


def _wrappers() -> tuple[type[Any], ...]:
    from torch.nn import DataParallel
    from torch.nn.parallel import DistributedDataParallel
    from torch.optim.swa_utils import AveragedModel

    return DistributedDataParallel, DataParallel, AveragedModel


def _is_compiled(module: Any) -> bool:
    if getattr(module, "_compiled_call_impl", None) is not None:
        return True
    if getattr(module, "_compiler_ctx", None) is not None:  # Lightning's
        return True
    return type(module).__name__ == "OptimizedModule"


def _weighted(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Convolutions and linear layers: what has a weight of two axes or more."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if getattr(getattr(module, "weight", None), "ndim", 0) >= 2
        and type(module).__name__.startswith(("Conv", "Linear", "LazyConv", "LazyLinear"))
    ]
