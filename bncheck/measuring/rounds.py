"""Batches dealt to processes, and what they make of them gathered in the batches' order.

In a round every rank works on one batch of its own. After it every rank holds what all of them
found, so all end with the same bits, and with those of a single process. Whoever has run out of
batches still takes part, until all have.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from bncheck.data import Batch, Batches
from bncheck.measuring.distributed import Processes
from bncheck.measuring.messages import Contribution, Parts, SharedError

if TYPE_CHECKING:
    from torch import Tensor


_OWN: Final = "the ranks read different batches, so each measured all of its own"
_UNEVEN: Final = "the ranks read {} batches, so no rank measured some of them"


class Share:
    """The batches of one rank, with their numbers, empty ones left out.

    Where all ranks read the same batches, every one takes its turn. Where their first batches
    differ (a DistributedSampler gives each rank its part of the data), every rank takes all of its
    own. `first` is the first batch of the data, `largest` the largest size met so far.
    """

    def __init__(self, processes: Processes, data: Batches) -> None:
        self.first: tuple[int, Batch] | None = None
        self.largest = 0
        self._processes = processes
        self._data = data
        self._seen = hashlib.sha256()
        self._batches = 0

    def __iter__(self) -> Generator[tuple[int, Batch]]:
        size, rank = self._processes.size, self._processes.rank
        filled = ((number, batch) for number, batch in enumerate(self._data) if batch.size)
        for place, (number, batch) in enumerate(filled):
            self._batches = place + 1
            self.largest = max(self.largest, batch.size)
            if self.first is None:
                self.first = (number, batch)
                self._find_whose(batch)
            if self._processes.wire is not None and self._data.fixed:
                self._seen.update(digest(batch.inputs))
            if self._processes.own_data or place % size == rank:
                yield number, batch
        if self.first is None:
            self._find_whose(None)

    def _find_whose(self, batch: Batch | None) -> None:
        """Whether the ranks read the same batches, or each its own."""
        if self._data.fixed or self._processes.wire is None:
            self._processes.own_data = False
        else:
            mine = b"" if batch is None else digest(batch.inputs)
            digests = self._processes.told("the first batch", mine)
            self._processes.own_data = len(set(digests)) > 1
            if self._processes.own_data:
                self._processes.notes[_OWN] = None

    def check(self) -> None:
        """Refuse a file in which a rank read something else; note a rank with fewer batches."""
        if self._data.fixed:
            digests = self._processes.told("all batches", self._seen.digest())
            if (rank := _other(digests)) is not None:
                sentence = f"holds other data for rank {rank} than for rank 0"
                raise SharedError(sentence, "give all ranks the same files", self._data.name)
        elif not self._processes.own_data:
            counts = self._processes.told("the number of batches", str(self._batches).encode())
            self._processes.uneven = _other(counts) is not None
            if self._processes.uneven:
                said = ", ".join(count.decode() for count in counts)
                self._processes.notes[_UNEVEN.format(said)] = None


def _other(values: Sequence[bytes]) -> int | None:
    """The first rank that has another value than rank 0."""
    return next((rank for rank, value in enumerate(values) if value != values[0]), None)


def digest(tensors: Iterable[Tensor]) -> bytes:
    """SHA-256 of dtypes, shapes and bytes."""
    import torch

    found = hashlib.sha256()
    for tensor in tensors:
        held = tensor.detach().cpu()
        held = held.int_repr() if held.is_quantized else held
        held = held.to_dense() if held.layout is not torch.strided else held
        held = held.resolve_conj().resolve_neg().contiguous()
        found.update(f"{held.dtype} {tuple(held.shape)} ".encode())
        found.update(held.reshape(-1).view(torch.uint8).numpy().data)
    return found.digest()


def in_rounds(
    processes: Processes,
    share: Share,
    work: Callable[[int, Batch], Parts],
    step: str,
) -> Iterator[list[Contribution]]:
    """What the ranks made of a batch each, round by round."""
    with contextlib.closing(iter(share)) as mine:  # a pass changes the random state, and ends it
        while True:
            number, batch = next(mine, (0, None))
            if batch is None:
                contribution = Contribution({})
            else:
                contribution = Contribution(work(number, batch), batch.size)
            everyone = processes.exchange(step, contribution)
            if not any(other.samples for other in everyone):
                break
            yield [other for other in everyone if other.samples]
    share.check()
