"""What every reader returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from bncheck.core.budget import Budget
from bncheck.core.words import shortened
from bncheck.reading.roles import REPARAMETRISED, STATISTICS, split_name
from bncheck.reading.tensors import LazyTensor, TensorMap

if TYPE_CHECKING:
    import onnx

    from bncheck.reading.listing import Listing
    from bncheck.reading.shards import Shards
    from bncheck.reading.training_state import TrainingState


class Container(StrEnum):
    """How a file packs its tensors."""

    TORCH_ZIP = "torch-zip"
    TORCH_LEGACY = "torch-legacy"
    PICKLE = "pickle"
    NPZ = "npz"
    TORCHSCRIPT = "torchscript"
    EXPORTED_PROGRAM = "exported-program"
    SAFETENSORS = "safetensors"
    SAFETENSORS_SHARDED = "safetensors-sharded"
    TORCH_SHARDED = "torch-sharded"
    DISTRIBUTED = "distributed"
    ONNX = "onnx"
    HF_DIRECTORY = "hf-directory"
    RECORD = "record"


def as_number(value: object) -> float | None:
    """A finite number from a file, or None for whatever else stands in its place."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def as_eps(value: object) -> float | None:
    """An eps from a file. One that is not finite counts, since its layer gives NaN or zeros."""
    return value if isinstance(value, float) else as_number(value)


@dataclass(frozen=True, slots=True)
class NormModule:
    """What a file itself says about one normalisation layer, where it keeps more than tensors.

    `momentum` is in PyTorch's convention; None means a cumulative average if `momentum_known`.
    `tensors` maps the roles running_mean, running_var, weight, bias and num_batches_tracked to
    names in the checkpoint; a role without a tensor is absent. `sources` are those that these are
    computed from. `unused` ones are never called in eval mode, as far as the file's code shows.
    """

    class_name: str
    tensors: Mapping[str, str]
    eps: float | None = None
    momentum: float | None = None
    momentum_known: bool = False
    training: bool | None = None
    tracks_statistics: bool | None = None
    sources: frozenset[str] = frozenset()
    unused: bool = False


@dataclass(frozen=True, slots=True)
class Subtree:
    """One set of tensors that belong together: a state dict or a module, at `path` in the file.

    `main` is the one that the format's loader takes where a file holds several; `program` is what
    an ONNX file says beside its tensors, `listing` reads what another one says of its calls,
    `training` is what a snapshot of a record says, `folded` whether `fold` says that it wrote it.
    """

    path: str
    tensors: Mapping[str, LazyTensor]
    modules: Mapping[str, NormModule] = field(default_factory=dict)
    main: bool = False
    program: onnx.ModelProto | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    listing: Callable[[], Listing] | None = None
    training: TrainingState | None = None
    folded: bool = False

    @property
    def statistics(self) -> int:
        """How many running means it holds: what makes one subtree more interesting."""
        return sum(STATISTICS.get(split_name(name)[1]) == "running_mean" for name in self.tensors)

    @property
    def holds_norms(self) -> bool:
        """Whether any norm is in it that would be judged."""
        return bool(self.statistics) or any(name.endswith(REPARAMETRISED) for name in self.tensors)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Named tensors of one model, and what the file says about its normalisation layers.

    `key` is the subtree that was taken ("" for the whole file), `prefix` what all its names start
    with, `alternatives` the other subtrees that hold running statistics. `numbers` are those beside
    the model in a pickled file, such as epoch and global_step, `shards` the files of an index,
    `program` an ONNX model's calls, `listing` those of other files that know them, `training` where
    the training was that a record tells of, `folded` whether it is what `fold` made of a model.
    """

    path: Path
    container: Container
    key: str
    prefix: str
    tensors: TensorMap
    modules: Mapping[str, NormModule]
    alternatives: tuple[Subtree, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    shards: Shards | None = None
    program: onnx.ModelProto | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    listing: Callable[[], Listing] | None = None
    training: TrainingState | None = None
    folded: bool = False


def part_name(key: str) -> str:
    """What a part of a file is called."""
    return shortened(key) or "the root"
