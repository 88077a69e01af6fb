"""A model's layers as numbers: copied once a snapshot, all tensors of a kind in one transfer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bncheck.layers.norm_layer import NormLayer, Origin, Setting
from bncheck.reading.roles import AFFINE

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bncheck.measuring.norms import TrackingNorm
    from bncheck.reading.tensors import Array
    from bncheck.recording.modules import Watched

#: Numbers of each weight that tell whether it has moved.
_SAMPLED: Final = 16


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """The tensors as arrays of their own shape and dtype that nobody else writes to."""
    import torch

    kinds: dict[Any, list[str]] = {}
    for name, tensor in tensors.items():
        kinds.setdefault((tensor.device, tensor.dtype), []).append(name)
    found: dict[str, Array] = {}
    with torch.no_grad():
        for names in kinds.values():
            group = [tensors[name] for name in names]
            flat = _array(torch.cat([t if t.ndim == 1 else t.reshape(-1) for t in group]).cpu())
            start = 0
            for name, tensor in zip(names, group, strict=True):
                stop = start + tensor.numel()
                own = flat[start:stop]
                found[name] = own if tensor.ndim == 1 else own.reshape(tuple(tensor.shape))
                start = stop
    return {name: found[name] for name in tensors}


def _array(tensor: Tensor) -> Array:
    """NumPy has no bfloat16 and no float8: ml_dtypes does."""
    import torch

    if tensor.dtype is torch.bfloat16:
        import ml_dtypes

        wide: Array = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return wide
    array: Array = (tensor.float() if tensor.dtype.itemsize < 2 else tensor).numpy()
    return array


def norm_layers(watched: Watched, arrays: Mapping[str, Array]) -> list[NormLayer]:
    """The layers with these numbers."""
    return [_layer(norm, arrays) for norm in watched.norms]


def _layer(norm: TrackingNorm, arrays: Mapping[str, Array]) -> NormLayer:
    dot = f"{norm.name}." if norm.name else ""
    names = {"running_mean": norm.mean_name, "running_var": norm.var_name}
    names |= {role: own for own, role in AFFINE.items() if dot + own in arrays}
    counter = arrays.get(f"{dot}num_batches_tracked")
    held = {role: arrays[dot + own].reshape(-1) for role, own in names.items()}
    return NormLayer(
        norm.name,
        norm.kind,
        held["running_mean"],
        held["running_var"],
        held.get("weight"),
        held.get("bias"),
        None if counter is None else float(counter.reshape(-1)[0]),
        Setting(eps_of(norm.module), Origin.MODEL),
        Setting(momentum_of(norm.module), Origin.MODEL),
        norm.module.training,
        True,
        (),
        {role: dot + own for role, own in names.items()},
    )


def eps_of(module: Any) -> float:
    """A layer's eps; PyTorch's default where it has none."""
    eps = getattr(module, "eps", None)
    return float(eps) if isinstance(eps, (int, float)) else 1e-5


def momentum_of(module: Any) -> float | None:
    """A layer's momentum; None for a cumulative average."""
    momentum = getattr(module, "momentum", None)
    return float(momentum) if isinstance(momentum, (int, float)) else None


@dataclass
class Weights:
    """Some numbers of every weight of a model, in views of them that are made once.

    A view keeps the memory of a weight that is replaced until the next digest.
    """

    model: nn.Module
    _places: list[int] = field(default_factory=list)
    _samples: list[Tensor] = field(default_factory=list)

    def digest(self) -> tuple[str, str | None]:
        """A digest, which differs where weights do, and the first trained weight not finite."""
        import torch

        parameters = list(self.model.parameters())
        places = [parameter.data_ptr() for parameter in parameters]
        with torch.no_grad():
            if places != self._places:
                self._samples = [_sampled(parameter.detach()) for parameter in parameters]
                views = [sample.data_ptr() for sample in self._samples]
                self._places = places if views == places and all(places) else []
            devices = dict.fromkeys(sample.device for sample in self._samples)
            samples = [sample.float() for sample in self._samples]
            parts = [torch.cat([s for s in samples if s.device == d]) for d in devices]
        digest, finite = hashlib.blake2b(digest_size=12), True
        for part in parts:
            array = part.cpu().numpy()
            digest.update(array.tobytes())
            finite = finite and math.isfinite(array.sum(dtype=np.float64))
        return digest.hexdigest(), None if finite else self._bad(samples)

    def _bad(self, samples: Sequence[Tensor]) -> str | None:
        """The first trained weight that is not finite; in a mask, infinity may have a meaning."""
        named = zip(self.model.named_parameters(), samples, strict=True)
        return next(
            (
                name
                for (name, parameter), sample in named
                if parameter.requires_grad and not bool(sample.isfinite().all())
            ),
            None,
        )


def _sampled(parameter: Tensor) -> Tensor:
    """Some numbers in the order of memory, which any dense layout has without a copy."""
    import torch

    if hasattr(parameter, "to_local"):  # a DTensor: what this process holds of it
        parameter = parameter.to_local()
    number, step = parameter.numel(), max(1, parameter.numel() // _SAMPLED)
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(parameter.ndim)
    dense = parameter.is_contiguous() or (
        last is not None and parameter.is_contiguous(memory_format=last)
    )
    if number and dense:
        return parameter.as_strided((number // step,), (step,), parameter.storage_offset())
    return parameter.reshape(-1)[::step]
