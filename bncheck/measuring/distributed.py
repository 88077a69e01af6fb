"""Several processes (torchrun): whole batches dealt to ranks, moments gathered and merged in order.

After each round every rank holds every rank's packed moments and merges them in the order of the
batches. So all ranks end with the same bits, and with those of a single process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bncheck.core.errors import BncheckError
from bncheck.measuring.moments import Moments, unpack

if TYPE_CHECKING:
    from torch import Tensor

Batch = dict[str, Moments]


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's place among those that measure together."""

    rank: int = 0
    size: int = 1

    def guarded(self, work: Callable[[], Batch]) -> Batch | BncheckError:
        """The work's result; with several processes, an error instead of raising it at once.

        The others wait for this one in `exchange`, so it has to arrive there, error or not.
        """
        if self.size == 1:
            return work()
        try:
            return work()
        except BncheckError as error:
            return error

    def exchange(
        self, result: Batch | BncheckError, pivots: Mapping[str, Tensor]
    ) -> Iterator[Batch]:
        """Every process's moments of this round, in the order of ranks."""
        if self.size == 1:
            assert not isinstance(result, BncheckError)
            yield result
            return
        yield from _gather(self, result)


def _gather(processes: Processes, result: Batch | BncheckError) -> Iterator[Batch]:
    import torch.distributed as dist

    failed = isinstance(result, BncheckError)
    packed = str(result) if failed else {n: m.pack() for n, m in _items(result)}
    everyone: list[object] = [None] * processes.size
    dist.all_gather_object(everyone, packed)
    if isinstance(result, BncheckError):
        raise result
    for rank, other in enumerate(everyone):
        if isinstance(other, str):
            raise BncheckError(f"process {rank} failed ({other})", "see its own message")
    for other in everyone:
        assert isinstance(other, dict)
        yield {name: unpack(vector) for name, vector in other.items()}


def _items(result: Batch | BncheckError) -> list[tuple[str, Moments]]:
    assert not isinstance(result, BncheckError)
    return list(result.items())


@contextlib.contextmanager
def launched_processes(device: str) -> Iterator[Processes]:
    """The processes that torchrun started, joined; a single one without torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    import torch.distributed as dist

    joined = not dist.is_initialized()
    if joined:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        if joined:
            dist.destroy_process_group()


def in_rank_order(processes: Processes, mine: object) -> list[object]:
    """What every process has, in the order of ranks."""
    if processes.size == 1:
        return [mine]
    import torch.distributed as dist

    everyone: list[object] = [None] * processes.size
    dist.all_gather_object(everyone, mine)
    return everyone
