"""Batches that can be gone through again and again, the same each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from bncheck.core.errors import BncheckError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_SEED: Final = 0
DEFAULT_BATCH_SIZE: Final = 64
DEFAULT_MAX_SAMPLES: Final = 4096


@dataclass(frozen=True, slots=True)
class DataOptions:
    """How batches are made: raw values become (x / scale - mean) / std."""

    batch_size: int = DEFAULT_BATCH_SIZE
    max_samples: int | None = DEFAULT_MAX_SAMPLES
    scale: float | None = None
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    size: Sequence[int] = ()

    @property
    def normalises(self) -> bool:
        """Whether any of scale, mean and std is given."""
        return self.scale is not None or bool(self.mean) or bool(self.std)


@dataclass(frozen=True)
class Batch:
    """The model's inputs and, where there are any, the labels."""

    args: tuple[Tensor, ...]
    kwargs: Mapping[str, Tensor] = field(default_factory=dict)
    target: Tensor | None = None

    @property
    def inputs(self) -> list[Tensor]:
        """All inputs, the first the most important."""
        return [*self.args, *self.kwargs.values()]

    @property
    def size(self) -> int:
        """How many samples."""
        first = self.inputs[0]
        return int(first.shape[0]) if first.ndim else 1

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with a function applied to its inputs."""
        return Batch(
            tuple(function(tensor) for tensor in self.args),
            {name: function(tensor) for name, tensor in self.kwargs.items()},
            self.target,
        )


@dataclass(frozen=True)
class Batches:
    """Batches to go through as often as needed. `total` counts samples where that is known.

    `fixed` ones come from a file or folder, so that every process should find the same.
    """

    source: Callable[[], Iterable[Batch]]
    name: str
    total: int | None = None
    max_samples: int | None = None
    fixed: bool = False

    def __iter__(self) -> Iterator[Batch]:
        """One pass, the same each time, cut off after max_samples."""
        import torch

        left = self.max_samples
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            for batch in self.source():
                if left is not None and batch.size > left:
                    batch = _first(batch, left)
                yield batch
                if left is not None:
                    left -= batch.size
                    if left <= 0:
                        return

    @property
    def samples(self) -> int | None:
        """How many samples a pass has, where that is known."""
        if self.total is None or self.max_samples is None:
            return self.total
        return min(self.total, self.max_samples)


def _first(batch: Batch, samples: int) -> Batch:
    cut = batch.map(lambda tensor: tensor[:samples])
    target = batch.target
    return Batch(cut.args, cut.kwargs, None if target is None else target[:samples])


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
