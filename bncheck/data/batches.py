"""Batches that can be gone through again and again, the same each time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from bncheck.core.errors import BncheckError
from bncheck.data.randomness import repeatable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_SEED: Final = 0
DEFAULT_BATCH_SIZE: Final = 64
DEFAULT_MAX_SAMPLES: Final = 4096


class _Kind(StrEnum):
    """What a number has to be."""

    COUNT = "a whole number above 0"
    DIVISOR = "a number above 0"
    FINITE = "a finite number"

    def holds(self, number: float) -> bool:
        """Whether a number is one."""
        above = self is _Kind.FINITE or number > 0
        return math.isfinite(number) and above and (self is not _Kind.COUNT or number % 1 == 0)


#: The numbers that prepare data, each with an example.
EXAMPLES: Final = {
    "--batch-size": (_Kind.COUNT, "64"),
    "--max-samples": (_Kind.COUNT, "1000"),
    "--scale": (_Kind.DIVISOR, "255"),
    "--mean": (_Kind.FINITE, "0.485,0.456,0.406"),
    "--std": (_Kind.DIVISOR, "0.229,0.224,0.225"),
    "--size": (_Kind.COUNT, "224,224"),
}


@dataclass(frozen=True, slots=True)
class DataOptions:
    """How batches are made: raw values become (x / scale - mean) / std."""

    batch_size: int = DEFAULT_BATCH_SIZE
    max_samples: int | None = DEFAULT_MAX_SAMPLES
    scale: float | None = None
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    size: Sequence[int] = ()
    grey: bool = False

    def __post_init__(self) -> None:
        """Raise BncheckError for numbers that no data can be prepared with."""
        for option, numbers in (
            ("--batch-size", (self.batch_size,)),
            ("--max-samples", () if self.max_samples is None else (self.max_samples,)),
            ("--scale", () if self.scale is None else (self.scale,)),
            ("--mean", self.mean),
            ("--std", self.std),
            ("--size", self.size),
        ):
            kind, example = EXAMPLES[option]
            for number in numbers:
                if not kind.holds(number):
                    raise BncheckError(
                        f"{option} {number:g} is not {kind.value}", f"write e.g. {option} {example}"
                    )
        if len(self.size) > 2:
            raise BncheckError(
                f"--size has {len(self.size)} numbers", "give the height, or HEIGHT,WIDTH"
            )

    @property
    def normalises(self) -> bool:
        """Whether any of scale, mean and std is given."""
        return self.scale is not None or bool(self.mean) or bool(self.std)


@dataclass(frozen=True)
class Batch:
    """The model's inputs and, where there are any, the labels: a tensor, or several of them.

    Those in `kwargs` are given by name where `forward` has such parameters, else in their order.
    """

    args: tuple[Tensor, ...]
    kwargs: Mapping[str, Tensor] = field(default_factory=dict)
    target: Any = None

    @property
    def inputs(self) -> list[Tensor]:
        """All inputs, the first the most important."""
        return [*self.args, *self.kwargs.values()]

    @property
    def size(self) -> int:
        """How many samples."""
        first = self.args[0] if self.args else next(iter(self.kwargs.values()))
        return int(first.shape[0]) if first.ndim else 1

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with a function applied to its inputs."""
        return Batch(
            tuple(function(tensor) for tensor in self.args),
            {name: function(tensor) for name, tensor in self.kwargs.items()},
            self.target,
        )

    def with_input(self, place: int, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with a function applied to one of its inputs."""
        args, kwargs = list(self.args), dict(self.kwargs)
        if place < len(args):
            args[place] = function(args[place])
        else:
            name = list(kwargs)[place - len(args)]
            kwargs[name] = function(kwargs[name])
        return Batch(tuple(args), kwargs, self.target)

    def picked(self, places: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Batch:
        """The inputs of the samples at these places, in that order, any as often as it is named."""
        import torch

        size, index = self.size, torch.from_numpy(places)
        inputs = self.map(lambda x: x[index.to(x.device)] if x.shape[:1] == (size,) else x)
        return Batch(inputs.args, inputs.kwargs)

    def part(self, start: int, end: int) -> Batch:
        """The samples from one place up to another; what has no such axis is left as it is."""
        size = self.size
        cut = self.map(lambda x: _cut(x, size, start, end))
        return Batch(cut.args, cut.kwargs, _cut(self.target, size, start, end))


@dataclass(frozen=True)
class Batches:
    """Batches to go through as often as needed. `total` counts samples where that is known.

    `fixed` ones come from a file or folder, so that every process should find the same. `note` says
    what was chosen on the user's behalf, `origin` is the loader or data set that they come from.
    """

    source: Callable[[], Iterable[Batch]]
    name: str
    total: int | None = None
    max_samples: int | None = None
    fixed: bool = False
    note: str = ""
    origin: object = None

    def __iter__(self) -> Iterator[Batch]:
        """One pass, the same each time, cut off after max_samples."""
        left = self.max_samples
        with repeatable(self.origin):
            for batch in self.source():
                if left is not None and batch.size > left:
                    batch = batch.part(0, left)
                yield batch
                if left is not None:
                    left -= batch.size
                    if left <= 0:
                        return

    def first(self, samples: int) -> Batches:
        """The first batches, until this many samples are reached."""

        def source() -> Iterator[Batch]:
            seen = 0
            for batch in self:
                yield batch
                seen += batch.size
                if seen >= samples:
                    return

        known = None if self.samples is None else min(self.samples, samples)
        return Batches(source, self.name, known, fixed=self.fixed)

    def of_size(self, size: int) -> Batches:
        """The same samples in the same order, in batches of this size; the last may be smaller.

        Inputs of different shapes, which cannot be joined, stay in batches of their own.
        """

        def source() -> Iterator[Batch]:
            held: list[Batch] = []
            for batch in self:
                for start in range(0, batch.size, size):
                    part = batch.part(start, start + size)
                    if held and not _alike(held[0], part):
                        yield joined(held)
                        held = []
                    while part.size and sum(b.size for b in held) + part.size >= size:
                        taken = size - sum(b.size for b in held)
                        yield joined([*held, part.part(0, taken)])
                        held, part = [], part.part(taken, part.size)
                    held += [part] if part.size else []
            if held:
                yield joined(held)

        return Batches(source, self.name, self.samples, fixed=self.fixed)

    @property
    def samples(self) -> int | None:
        """How many samples a pass has, where that is known."""
        if self.total is None or self.max_samples is None:
            return self.total
        return min(self.total, self.max_samples)


def _cut(value: Any, size: int, start: int, end: int) -> Any:
    """Samples of a tensor, or of all tensors in a dict or sequence."""
    if isinstance(value, Mapping):
        return {key: _cut(item, size, start, end) for key, item in value.items()}
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        whole = len(value) == size and not hasattr(value[0], "shape")
        if whole:
            return value[start:end]
        return type(value)(_cut(item, size, start, end) for item in value)
    shape = getattr(value, "shape", None)
    return value[start:end] if shape is not None and shape[:1] == (size,) else value


def _alike(one: Batch, other: Batch) -> bool:
    """Whether the two can be joined to one batch."""
    pairs = zip(one.inputs, other.inputs, strict=False)
    whole = one.target is None or hasattr(one.target, "shape")
    return whole and all(a.shape[1:] == b.shape[1:] for a, b in pairs)


def joined(parts: Sequence[Batch]) -> Batch:
    """Batches of samples of the same shapes as one."""
    import torch

    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    args = tuple(torch.cat(tensors) for tensors in zip(*(p.args for p in parts), strict=True))
    kwargs = {name: torch.cat([p.kwargs[name] for p in parts]) for name in first.kwargs}
    target = None if first.target is None else torch.cat([p.target for p in parts])
    return Batch(args, kwargs, target)


class Samples(Protocol):
    """Samples that can be picked by number."""

    def __len__(self) -> int: ...

    def pick(self, indices: np.ndarray[Any, np.dtype[np.int64]]) -> Batch:
        """The samples at these places as one batch."""
        ...


def dealt(samples: Samples, name: str, options: DataOptions, fixed: bool = False) -> Batches:
    """Batches of (nearly) equal size in a fixed random order: none is much smaller than others."""
    import numpy as np

    total = len(samples)
    if not total:
        raise BncheckError("holds no samples", "check the data", name)
    taken = min(total, options.max_samples or total)
    order = np.random.default_rng(_SEED).permutation(total)[:taken]
    parts = np.array_split(order, -(-taken // options.batch_size))
    source = lambda: (samples.pick(np.sort(part)) for part in parts)  # noqa: E731
    return Batches(source, name, total, taken, fixed)
