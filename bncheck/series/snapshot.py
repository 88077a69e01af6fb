"""One snapshot: the numbers of its normalisation layers, and how far the training was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.core.thresholds import DEAD_VARIANCE
from bncheck.core.wrappers import LayerNames
from bncheck.layers.norm_layer import Assumptions, NormLayer, find_layers
from bncheck.reading.checkpoint import Checkpoint
from bncheck.reading.opening import open_checkpoint
from bncheck.reading.roles import split_name
from bncheck.reading.training_state import TrainingState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: What trainers call the number of updates, and that of passes over the data.
_STEPS: Final = ("global_step", "step", "steps", "iteration", "iterations", "iter", "num_updates")
_EPOCHS: Final = ("epoch", "epochs", "current_epoch")
_SAMPLED: Final = 64


@dataclass(frozen=True, slots=True)
class State:
    """What a snapshot says about one layer. `usable` is whether it has statistics that can be
    compared: none are missing, all are finite. They are None where they are not, or were let go.

    `parameters` is a digest of weight and bias, None where the layer has neither; `buffers` one of
    the statistics as they are stored. `sample` are some numbers of weight and bias; `counted`
    whether it has a counter at all, be it 0.
    """

    mean: NDArray[np.float32] | None
    var: NDArray[np.float32] | None
    eps: float
    momentum: float | None
    counter: int | None
    parameters: bytes | None
    buffers: bytes
    channels: int
    dead: int
    sample: NDArray[np.float32] | None = None
    counted: bool = False
    usable: bool = True

    def without_numbers(self, sample: bool) -> State:
        """What is left of it once its statistics were compared: they are most of its memory."""
        return replace(self, mean=None, var=None, sample=self.sample if sample else None)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One file of the series; `step` (updates) and `epoch` are what the file itself says.

    `key` is the part of the file that was taken, `others` the parts that were not; `training` is
    what a record tells besides. Layers have their names in the file; `prefix` is what all of these
    begin with.
    """

    path: Path
    label: str
    step: int | None
    epoch: int | None
    states: Mapping[str, State]
    key: str = ""
    others: tuple[str, ...] = ()
    training: TrainingState | None = None
    prefix: str = ""

    @property
    def counter(self) -> int | None:
        """The largest batch counter of its layers."""
        return max((s.counter for s in self.states.values() if s.counter), default=None)

    @property
    def position(self) -> int | None:
        """How many updates the training had done: the step, or else the batch counter."""
        return self.counter if self.step is None else self.step

    @property
    def usable(self) -> bool:
        """Whether any layer has statistics that can be compared."""
        return any(state.usable for state in self.states.values())

    def named_like(self, other: Snapshot) -> Snapshot:
        """The same with the other's names for the same layers, whatever wraps the model there."""
        if self.states.keys() == other.states.keys():
            return self
        cut = len(self.prefix)
        states = {other.prefix + name[cut:]: state for name, state in self.states.items()}
        theirs = LayerNames.of(states).counterparts(LayerNames.of(other.states))
        states = {theirs.get(name, name): state for name, state in states.items()}
        return replace(self, states=states, prefix=other.prefix)

    def without_numbers(self, samples: bool) -> Snapshot:
        """The same without statistics; with the samples of weights, or without."""
        states = {name: state.without_numbers(samples) for name, state in self.states.items()}
        return replace(self, states=states)

    @property
    def digests(self) -> dict[str, tuple[bytes | None, bytes]]:
        """Digests of every layer's parameters and buffers."""
        return {name: (s.parameters, s.buffers) for name, s in self.states.items()}


def read_snapshot(path: Path, key: str | None, given: Assumptions) -> Snapshot:
    """One file: the numbers of its normalisation layers, and how far the training was."""
    return opened_snapshot(path, key, given)[0]


def opened_snapshot(
    path: Path, key: str | None, given: Assumptions
) -> tuple[Snapshot, dict[str, NormLayer]]:
    """The same, and its layers, by the names that the snapshot has for them."""
    checkpoint = open_checkpoint(path, key)
    try:
        layers = {layer.name: layer for layer in find_layers(checkpoint, given)}
        states = {name: state_of(layer) for name, layer in layers.items()}
    except BncheckError as error:
        raise error.about(str(path)) from None
    training = checkpoint.training
    if training is None:
        step, epoch = _whole(checkpoint, _STEPS), _whole(checkpoint, _EPOCHS)
    else:
        step, epoch = training.step, training.epoch
    # A record calls layers what the training does: so do its findings, and what batches were like.
    whole = training is not None or not all(n.startswith(checkpoint.prefix) for n in states)
    prefix = "" if whole else checkpoint.prefix
    others = tuple(tree.path for tree in checkpoint.alternatives)
    snapshot = Snapshot(
        path, path.stem, step, epoch, states, checkpoint.key, others, training, prefix
    )
    return snapshot, layers


def other_weights_differ(first: Path, second: Path, key: str | None) -> bool:
    """Whether any weight outside the normalisation layers differs; the last ones are tried first.

    In transfer learning only the head may move, which is at the end of a file.
    """
    one, two = open_checkpoint(first, key), open_checkpoint(second, key)
    norms = {layer.name for layer in find_layers(one, Assumptions())}
    shared = [n for n in one.tensors if n in two.tensors and split_name(n)[0] not in norms]
    return any(
        not np.array_equal(one.tensors[name], two.tensors[name]) for name in reversed(shared)
    )


def state_of(layer: NormLayer) -> State:
    """What one layer holds."""
    found = layer.statistics
    parameters = [array for array in (layer.weight, layer.bias) if array is not None]
    buffers = [array for array in (layer.mean, layer.var) if array is not None]
    mean, var = (None, None) if found is None else (x.astype(np.float32) for x in found)
    return State(
        mean,
        var,
        layer.eps.value or 0.0,
        layer.momentum.value if layer.momentum.known else None,
        layer.counter,
        _digest(parameters) if parameters else None,
        _digest(buffers),
        layer.channels,
        0 if var is None else int((var < DEAD_VARIANCE).sum()),
        _sample(parameters) if parameters else None,
        layer.batches is not None,
        mean is not None,
    )


def _sample(arrays: Iterable[NDArray[np.generic]]) -> NDArray[np.float32]:
    """As many numbers as tell whether weights go on from others, from all over the channels."""
    return np.concatenate([a[:: max(1, a.size // _SAMPLED)].astype(np.float32) for a in arrays])


def _digest(arrays: Iterable[NDArray[np.generic]]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(array.tobytes())
    return digest.digest()


def _whole(checkpoint: Checkpoint, names: Sequence[str]) -> int | None:
    numbers = (checkpoint.numbers.get(name) for name in names)
    return next((int(n) for n in numbers if n is not None and n >= 0 and n.is_integer()), None)
