"""Tensor names become normalisation layers.

A layer is what has a running mean or a running variance, whatever it is called; where the file
keeps its modules (a pickled module, TorchScript, .pt2, ONNX), also what these say is one. A bare
pair of weight and bias is never taken for a layer: it could be anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_LAYERS, MAX_STATISTIC_BYTES, MAX_STATISTICS
from bncheck.reading.checkpoint import Checkpoint, NormModule
from bncheck.reading.kinds import NormKind, kind_of_class

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bncheck.reading.tensors import Array, LazyTensor

    Floats = NDArray[np.float64]

DEFAULT_EPS = 1e-5
DEFAULT_MOMENTUM = 0.1

#: What the statistics are called: PyTorch's names, Keras' and TensorFlow's, PaddlePaddle's.
_STATISTICS = {
    "running_mean": "running_mean",
    "running_var": "running_var",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
    "moving_variance": "running_var",
    "_mean": "running_mean",
    "_variance": "running_var",
}
#: Complex, whitening and other relatives keep a `running_covar` or the like: no BatchNorms.
_RELATIVE = "running_"
#: Floats (ml_dtypes' are of kind V), integers, booleans; complex normalisation is another thing.
_REAL = "fiubV"
_AFFINE = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
_COUNTER = {"num_batches_tracked": "num_batches_tracked"}


class Origin(str, Enum):
    """Where the value of eps or momentum comes from."""

    FILE = "file"
    OPTION = "option"
    MODEL = "model"
    ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class Setting:
    """eps or momentum of a layer. A momentum of None is PyTorch's cumulative average."""

    value: float | None
    origin: Origin

    @property
    def known(self) -> bool:
        """False where PyTorch's default stands in for what the file does not say."""
        return self.origin is not Origin.ASSUMED


@dataclass(frozen=True)
class NormLayer:
    """One normalisation layer, its tensors in memory; a tensor that it does not have is None.

    `mean` and `var` are the running statistics, shape (channels,). `batches` is
    num_batches_tracked as stored: a whole number, or whatever else the file holds there.
    """

    name: str
    kind: NormKind
    mean: Array | None
    var: Array | None
    weight: Array | None
    bias: Array | None
    batches: float | None
    eps: Setting
    momentum: Setting
    training: bool | None = None
    tracks_statistics: bool | None = None
    missing: tuple[str, ...] = field(default=())

    @property
    def tracked(self) -> bool:
        """Whether it has running statistics, complete or not."""
        return self.mean is not None or self.var is not None

    @property
    def channels(self) -> int:
        """The number of channels, 0 where nothing tells."""
        tensors = (self.mean, self.var, self.weight, self.bias)
        return next((tensor.size for tensor in tensors if tensor is not None), 0)

    @property
    def sizes_differ(self) -> bool:
        """Whether mean and variance have different lengths."""
        return self.mean is not None and self.var is not None and self.mean.size != self.var.size

    @property
    def counter(self) -> int | None:
        """num_batches_tracked where it is a positive whole number."""
        if self.batches is None or self.batches <= 0 or not self.batches.is_integer():
            return None
        return int(self.batches)

    @cached_property
    def statistics(self) -> tuple[Floats, Floats] | None:
        """Mean and variance in float64 where both are there, finite and of one length."""
        import numpy as np

        if self.mean is None or self.var is None or self.sizes_differ or not self.mean.size:
            return None
        mean, var = self.mean.astype(np.float64), self.var.astype(np.float64)
        if not (np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all()):
            return None
        return mean, var


@dataclass(frozen=True, slots=True)
class Assumptions:
    """eps and momentum that the user gives for files that do not say."""

    eps: float | None = None
    momentum: float | None = None


def find_layers(checkpoint: Checkpoint, given: Assumptions) -> list[NormLayer]:
    """All normalisation layers of a checkpoint, in its own order, with their numbers read."""
    groups = _with_modules(_group(checkpoint), checkpoint.modules)
    if len(groups) > MAX_LAYERS:
        raise BncheckError(
            f"holds more than {MAX_LAYERS:,} normalisation layers (limit MAX_LAYERS)",
            "take a part of it with --key",
        )
    _check_size(checkpoint.tensors.lazy[tensor] for g in groups.values() for tensor in g.values())
    layers = []
    for name, roles in groups.items():
        module = checkpoint.modules.get(name)
        tensors = {role: checkpoint.tensors[tensor] for role, tensor in roles.items()}
        if all(tensor.dtype.kind in _REAL for tensor in tensors.values()):
            layers.append(_layer(name, tensors, module, given))
    return layers


def _check_size(tensors: Iterable[LazyTensor]) -> None:
    """Layers may share a storage: a file of a few MB can describe terabytes of statistics."""
    left = MAX_STATISTICS
    for tensor in tensors:
        left -= tensor.elements
        if left < 0 or tensor.cost > MAX_STATISTIC_BYTES:
            raise BncheckError(
                f"holds normalisation layers of more than {MAX_STATISTICS:,} numbers "
                "(limits MAX_STATISTICS, MAX_STATISTIC_BYTES)",
                "take a part of it with --key",
            )


def _group(checkpoint: Checkpoint) -> dict[str, dict[str, str]]:
    """Layer name -> role -> tensor name, for all that has a statistic or a batch counter."""
    found: dict[str, dict[str, str]] = {}
    relatives: set[str] = set()
    modules = checkpoint.modules.values()
    spoken_for = {name for m in modules for name in (*m.tensors.values(), *m.sources)}
    for tensor in checkpoint.tensors:
        owner, role = split_name(tensor)
        if tensor not in spoken_for and (role in _STATISTICS or role in _COUNTER):
            roles = found.setdefault(owner, {})
            roles[(_STATISTICS | _COUNTER)[role]] = tensor
        elif role.startswith(_RELATIVE):
            relatives.add(owner)
    for owner in relatives:
        if not {"running_mean", "running_var"} <= found.get(owner, {}).keys():
            found.pop(owner, None)
    for owner, roles in found.items():
        for own, role in _AFFINE.items():
            for name in (f"{owner}.{own}", f"{owner}/{own}") if owner else (own,):
                if name in checkpoint.tensors:
                    roles.setdefault(role, name)
    return found


def _with_modules(
    groups: dict[str, dict[str, str]], modules: Mapping[str, NormModule]
) -> dict[str, dict[str, str]]:
    merged = {name: dict(module.tensors) for name, module in modules.items()}
    for name, roles in groups.items():
        merged.setdefault(name, {}).update(roles)
    return merged


def split_name(tensor: str) -> tuple[str, str]:
    """layer1.0.bn1.running_mean -> (layer1.0.bn1, running_mean)."""
    cut = max(tensor.rfind("."), tensor.rfind("/"))
    return tensor[: max(cut, 0)], tensor[cut + 1 :]


def _layer(
    name: str, tensors: dict[str, Array], module: NormModule | None, given: Assumptions
) -> NormLayer:
    counter = tensors.get("num_batches_tracked")
    kind = (kind_of_class(module.class_name) if module else None) or NormKind.BATCH
    missing = [r for r in ("running_mean", "running_var") if r not in tensors]
    if module and not module.tracks_statistics and len(missing) == 2:
        missing = []
    return NormLayer(
        name,
        kind,
        mean=_vector(tensors.get("running_mean")),
        var=_vector(tensors.get("running_var")),
        weight=_vector(tensors.get("weight")),
        bias=_vector(tensors.get("bias")),
        batches=None if counter is None or counter.size != 1 else float(counter.reshape(())),
        eps=_setting(module.eps if module else None, given.eps, DEFAULT_EPS),
        momentum=_momentum(module, given),
        training=module.training if module else None,
        tracks_statistics=module.tracks_statistics if module else None,
        missing=tuple(missing),
    )


def _vector(array: Array | None) -> Array | None:
    return None if array is None else array.reshape(-1)


def _setting(file: float | None, option: float | None, default: float) -> Setting:
    if file is not None:
        return Setting(file, Origin.FILE)
    if option is not None:
        return Setting(option, Origin.OPTION)
    return Setting(default, Origin.ASSUMED)


def _momentum(module: NormModule | None, given: Assumptions) -> Setting:
    if module and module.momentum_known:
        return Setting(module.momentum, Origin.FILE)
    return _setting(None, given.momentum, DEFAULT_MOMENTUM)


def common(settings: Iterator[Setting]) -> Setting | None:
    """The one setting that all layers share; a value of None where they differ."""
    distinct = list(dict.fromkeys(settings))
    if not distinct:
        return None
    if len(distinct) == 1:
        return distinct[0]
    best = min((s.origin for s in distinct), key=list(Origin).index)
    return Setting(None, best)
