"""Reading the snapshots, one after another: of each only the normalisation layers are kept."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.core.thresholds import DEAD_VARIANCE
from bncheck.layers.norm_layer import Assumptions, NormLayer, find_layers, split_name
from bncheck.reading.checkpoint import Checkpoint, part_name
from bncheck.reading.opening import open_checkpoint
from bncheck.series.naming import natural_key, numbers_in, rank_of, short_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: What trainers call the number of updates, and that of passes over the data.
_STEPS: Final = ("global_step", "step", "steps", "iteration", "iterations", "iter", "num_updates")
_EPOCHS: Final = ("epoch", "epochs", "current_epoch")

#: Called with the number of snapshots done and how many there are.
Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class State:
    """What a snapshot says about one layer. None where statistics are missing or not finite.

    `parameters` is a digest of weight and bias, None where the layer has neither; `buffers` one of
    the statistics as they are stored.
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

    @property
    def usable(self) -> bool:
        """Whether it has statistics that can be compared."""
        return self.mean is not None and self.var is not None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One file of the series; `step` (updates) and `epoch` are what the file itself says.

    `key` is the part of the file that was taken, `others` the parts that were not.
    """

    path: Path
    label: str
    step: int | None
    epoch: int | None
    states: Mapping[str, State]
    key: str = ""
    others: tuple[str, ...] = ()

    @property
    def counter(self) -> int | None:
        """The largest batch counter of its layers."""
        return max((s.counter for s in self.states.values() if s.counter), default=None)

    @property
    def position(self) -> int | None:
        """How many updates the training had done: the step, or else the batch counter."""
        return self.counter if self.step is None else self.step

    def same_as(self, other: Snapshot) -> bool:
        """Whether all normalisation layers are equal, bit for bit."""
        return _digests(self) == _digests(other)


def _digests(snapshot: Snapshot) -> dict[str, tuple[bytes | None, bytes]]:
    return {name: (s.parameters, s.buffers) for name, s in snapshot.states.items()}


@dataclass(frozen=True, slots=True)
class Series:
    """Snapshots in order, other ranks' files beside those of rank 0, and what went wrong."""

    snapshots: tuple[Snapshot, ...]
    ranks: Mapping[int, tuple[Snapshot, ...]]  # by the place of rank 0's snapshot
    order: str
    notes: tuple[str, ...]
    errors: tuple[BncheckError, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every layer of any snapshot, in the order of the files."""
        return tuple(dict.fromkeys(name for s in self.snapshots for name in s.states))


def read_series(
    paths: Sequence[Path],
    key: str | None,
    given: Assumptions,
    tell: Tell,
    order: str = "auto",
    last: Path | None = None,
) -> Series:
    """Read every file once and put them in order, `last` behind all others.

    A file that cannot be read is an error beside.
    """
    read, errors = [], []
    for number, path in enumerate(paths):
        try:
            read.append(read_snapshot(path, key, given))
        except BncheckError as error:
            errors.append(error.about(str(path)))
        tell(number + 1, len(paths))
    snapshots, how = _ordered(read, order)
    snapshots = sorted(snapshots, key=lambda s: s.path == last)
    main, ranks = _by_rank(snapshots)
    if main:
        _refuse_other_widths([*main, *(s for group in ranks.values() for s in group)])
    labels = _labels(main)
    main = [replace(s, label=label) for s, label in zip(main, labels, strict=True)]
    notes = tuple(_notes(main, how, last))
    return Series(tuple(main), ranks, how, notes, tuple(errors))


def read_snapshot(path: Path, key: str | None, given: Assumptions) -> Snapshot:
    """One file: the numbers of its normalisation layers, and how far the training was."""
    checkpoint = open_checkpoint(path, key)
    try:
        states = {layer.name: _state(layer) for layer in find_layers(checkpoint, given)}
    except BncheckError as error:
        raise error.about(str(path)) from None
    step, epoch = _whole(checkpoint, _STEPS), _whole(checkpoint, _EPOCHS)
    prefix = checkpoint.prefix if all(n.startswith(checkpoint.prefix) for n in states) else ""
    states = {name[len(prefix) :]: state for name, state in states.items()}
    others = tuple(tree.path for tree in checkpoint.alternatives)
    return Snapshot(path, path.stem, step, epoch, states, checkpoint.key, others)


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


def _state(layer: NormLayer) -> State:
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
    )


def _digest(arrays: Iterable[NDArray[np.generic]]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(array.tobytes())
    return digest.digest()


def _whole(checkpoint: Checkpoint, names: Sequence[str]) -> int | None:
    numbers = (checkpoint.numbers.get(name) for name in names)
    return next((int(n) for n in numbers if n is not None and n >= 0 and n.is_integer()), None)


def _ordered(snapshots: list[Snapshot], order: str) -> tuple[list[Snapshot], str]:
    """By the step or epoch in all files; failing that by their names' numbers; or as given."""
    by_name = sorted(snapshots, key=lambda s: natural_key(str(s.path)))
    if order == "auto":
        for how in ("step", "epoch"):
            if all(_told(s, how) is not None for s in snapshots):
                return sorted(by_name, key=lambda s: _told(s, how) or 0), how
        order = "name" if all(numbers_in(s.path.name) for s in snapshots) else "given"
    return (by_name if order == "name" else snapshots), order


def _told(snapshot: Snapshot, how: str) -> int | None:
    return snapshot.epoch if how == "epoch" else snapshot.step


def _by_rank(snapshots: list[Snapshot]) -> tuple[list[Snapshot], dict[int, tuple[Snapshot, ...]]]:
    """Files that differ in nothing but the rank in their names are one snapshot."""
    groups: dict[str, list[Snapshot]] = {}
    for snapshot in snapshots:
        found = rank_of(snapshot.path)
        groups.setdefault(found[0] if found else str(snapshot.path), []).append(snapshot)
    main, ranks = [], {}
    for place, group in enumerate(groups.values()):
        group.sort(key=lambda s: (rank_of(s.path) or ("", 0))[1])
        main.append(group[0])
        if len(group) > 1:
            ranks[place] = tuple(group[1:])
    return main, ranks


def _refuse_other_widths(snapshots: Sequence[Snapshot]) -> None:
    widths: dict[str, tuple[int, Snapshot]] = {}
    for snapshot in snapshots:
        for name, state in snapshot.states.items():
            width, first = widths.setdefault(name, (state.channels, snapshot))
            if state.channels != width:
                raise BncheckError(
                    f"layer {name} has {state.channels} channels, and {width} in {first.path}",
                    "compare snapshots of one architecture",
                    str(snapshot.path),
                )


def _labels(snapshots: Sequence[Snapshot]) -> list[str]:
    """The epoch where all files tell it apart, else the step they name, else the file's name."""
    epochs = [s.epoch for s in snapshots]
    if None not in epochs and len(set(epochs)) == len(epochs):
        return [f"epoch {epoch}" for epoch in epochs]
    steps = [s.step for s in snapshots]
    if None not in steps and len(set(steps)) == len(steps):
        return [f"step {step}" for step in steps]
    return short_labels([s.path for s in snapshots])


def _parts_taken(snapshots: Sequence[Snapshot]) -> Iterable[str]:
    """Which part of files of several was compared, if nobody has said which."""
    chosen = [s for s in snapshots if s.others]
    if not chosen:
        return
    others = ", ".join(dict.fromkeys(part_name(other) for s in chosen for other in s.others[:3]))
    keys: dict[str, list[Snapshot]] = {}
    for snapshot in snapshots:
        keys.setdefault(snapshot.key, []).append(snapshot)
    if len(keys) == 1:
        yield f"took {part_name(chosen[0].key)} of every snapshot; --key takes another: {others}"
        return
    parts = (f"{part_name(key)} of {group[0].path} ({len(group)})" for key, group in keys.items())
    yield f"took different parts: {', '.join(parts)}; --key takes the same part of all: {others}"


def _notes(snapshots: Sequence[Snapshot], how: str, last: Path | None) -> Iterable[str]:
    """What is odd about the series: copies, an order that names or counters contradict."""
    yield from _parts_taken(snapshots)
    seen: dict[tuple[tuple[str, bytes | None, bytes], ...], Snapshot] = {}
    for snapshot in snapshots:
        digests = tuple((n, p, b) for n, (p, b) in sorted(_digests(snapshot).items()))
        if digests and digests in seen:
            yield f"{snapshot.path} is a copy of {seen[digests].path}: every layer is the same"
        seen.setdefault(digests, snapshot)
    if how in ("step", "epoch"):
        numbered = [s for s in snapshots if numbers_in(s.path.name) and s.path != last]
        by_name = sorted(numbered, key=lambda s: natural_key(str(s.path)))
        for named, told in zip(by_name, numbered, strict=True):
            if named is not told:
                yield (
                    f"the names order the files differently ({named.path} before {told.path}): "
                    f"the {how} in the files decides; --order name takes the names"
                )
                break
    for before, after in itertools.pairwise(snapshots):
        if before.counter and after.counter and after.counter < before.counter:
            yield (
                f"the batch counters fall from {before.counter:,} in {before.path} to "
                f"{after.counter:,} in {after.path}: the order may be wrong"
            )
    for snapshot in snapshots:
        bad = [n for n, s in snapshot.states.items() if s.mean is None and s.channels]
        if bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            yield f"{snapshot.path} has no usable statistics in layer {bad[0]}{more}"
