"""Tensor names become normalisation layers.

A layer is what has a running mean or a running variance, whatever it is called; where the file
keeps its modules (a pickled module, TorchScript, .pt2, ONNX), also what these say is one. A bare
pair of weight and bias is never taken for a layer: it could be anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Final

from bncheck.core.errors import BncheckError, quoted
from bncheck.core.limits import MAX_LAYERS, MAX_STATISTIC_BYTES, MAX_STATISTICS
from bncheck.layers.naming import group
from bncheck.reading.checkpoint import Checkpoint, NormModule
from bncheck.reading.kinds import NormKind, kind_of_class
from bncheck.reading.roles import DEVIATIONS, split_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bncheck.reading.tensors import Array

    Floats = NDArray[np.float64]

_PLAIN: Final = (
    *(NormKind.LAYER, NormKind.RMS, NormKind.GROUP, NormKind.INSTANCE),
    *(NormKind.SPECTRAL, NormKind.WEIGHT, NormKind.BY_NAME),
)
DEFAULT_EPS = 1e-5
DEFAULT_MOMENTUM = 0.1

#: Floats (ml_dtypes' are of kind V) and integers; complex normalisation is another thing.
_REAL = "fiuV"


class Origin(StrEnum):
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
    `tensors` says how the file calls each of them, by role; `size` is the number of channels of
    one whose tensors are not held.
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
    tensors: Mapping[str, str] = field(default_factory=dict)
    size: int = 0

    @property
    def tracked(self) -> bool:
        """Whether it has running statistics, complete or not."""
        return self.mean is not None or self.var is not None

    @property
    def plain_norm(self) -> bool:
        """Whether it is a norm that never has running statistics."""
        return not self.tracked and self.kind in _PLAIN

    @property
    def channels(self) -> int:
        """The number of channels, 0 where nothing tells."""
        for tensor in (self.mean, self.var, self.weight, self.bias):
            if tensor is not None:
                return tensor.size
        return self.size

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
    """All normalisation layers of a checkpoint, in its own order, with their numbers read.

    Raises BncheckError where two tensors have one role in a layer, or where one holds no real
    numbers.
    """
    groups = group(checkpoint.tensors, checkpoint.modules)
    if len(groups) > MAX_LAYERS:
        raise BncheckError(
            f"holds more than {MAX_LAYERS:,} normalisation layers (limit MAX_LAYERS)",
            "take a part of it with --key",
        )
    check_size(checkpoint, (name for roles in groups.values() for name in roles.values()))
    checkpoint.tensors.ahead(name for roles in groups.values() for name in roles.values())
    layers = []
    for name, roles in groups.items():
        tensors = {role: checkpoint.tensors[tensor] for role, tensor in roles.items()}
        if _are_real(roles, tensors):
            layers.append(_layer(name, tensors, checkpoint.modules.get(name), given, roles))
    return layers


def _are_real(roles: Mapping[str, str], tensors: Mapping[str, Array]) -> bool:
    """Whether they can be judged; false for a layer of complex numbers.

    Such a layer has a complex mean and a matrix for each variance. Any other that keeps statistics
    is refused: torch loads complex numbers into a BatchNorm and drops their imaginary parts.
    """
    mean, var = tensors.get("running_mean"), tensors.get("running_var")
    for role, tensor in tensors.items():
        if tensor.dtype.kind in _REAL or role == "num_batches_tracked":
            continue
        if mean is None and var is None:
            return False
        if mean is not None and mean.dtype.kind == "c" and (var is None or var.size != mean.size):
            return False
        raise BncheckError(
            f"keeps {quoted(roles[role])} as {tensor.dtype}: not the real numbers of a "
            "normalisation layer",
            "save it in the dtype that the model computes with",
        )
    return True


def check_size(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Layers may share a storage: a file of a few MB can describe terabytes of statistics."""
    left = MAX_STATISTICS
    for name in names:
        tensor = checkpoint.tensors.lazy[name]
        cost = tensor.cost
        checkpoint.budget.read.take(cost)  # strides spread it, and each reads it all
        left -= tensor.elements
        if left < 0 or cost > MAX_STATISTIC_BYTES:
            raise BncheckError(
                f"holds normalisation layers of more than {MAX_STATISTICS:,} numbers "
                "(limits MAX_STATISTICS, MAX_STATISTIC_BYTES)",
                "take a part of it with --key",
            )


def _layer(
    name: str,
    tensors: dict[str, Array],
    module: NormModule | None,
    given: Assumptions,
    names: Mapping[str, str],
) -> NormLayer:
    kind = kind_of_class(module.class_name) if module else _kind(tensors)
    kind = kind or NormKind.BATCH
    var = _vector(tensors.get("running_var"))
    if var is not None and split_name(names["running_var"])[1] in DEVIATIONS:
        var, kind = var.astype("float64") ** 2, NormKind.RENORM
    missing = [r for r in ("running_mean", "running_var") if r not in tensors]
    if module and not module.tracks_statistics and len(missing) == 2:
        missing = []
    return NormLayer(
        name,
        kind,
        mean=_vector(tensors.get("running_mean")),
        var=var,
        weight=_vector(tensors.get("weight")),
        bias=_vector(tensors.get("bias")),
        batches=_number(tensors.get("num_batches_tracked")),
        eps=_setting(module.eps if module else None, given.eps, DEFAULT_EPS),
        momentum=_momentum(module, given),
        training=module.training if module else None,
        tracks_statistics=module.tracks_statistics if module else None,
        missing=tuple(missing),
        tensors=names,
    )


def _kind(tensors: Mapping[str, Array]) -> NormKind:
    """torch's InstanceNorm keeps statistics and never counts, as some ports of BatchNorm."""
    counter, mean = tensors.get("num_batches_tracked"), tensors.get("running_mean")
    still = counter is not None and counter.size == 1 and not counter.any()
    moved = still and mean is not None and mean.any()
    return NormKind.BATCH_OR_INSTANCE if moved else NormKind.BATCH


def bare_layer(name: str, kind: NormKind, size: int = 0) -> NormLayer:
    """A norm of which only the name is told, and the number of its channels."""
    eps, momentum = (Setting(x, Origin.ASSUMED) for x in (DEFAULT_EPS, DEFAULT_MOMENTUM))
    return NormLayer(name, kind, None, None, None, None, None, eps, momentum, size=size)


def _number(counter: Array | None) -> float | None:
    if counter is None or counter.size != 1 or counter.dtype.kind not in f"{_REAL}b":
        return None
    return float(counter.reshape(()))


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


def same_eps(one: float, other: float) -> bool:
    """Equal, but for rounding."""
    return math.isclose(one, other, rel_tol=1e-6)


def common(settings: Iterator[Setting]) -> Setting | None:
    """The one setting that all layers share; a value of None where they differ."""
    distinct = list(dict.fromkeys(settings))
    if not distinct:
        return None
    if len(distinct) == 1:
        return distinct[0]
    best = min((s.origin for s in distinct), key=list(Origin).index)
    return Setting(None, best)
