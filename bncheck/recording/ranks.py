"""The batches of all processes of a distributed training, brought to process 0.

Through the store of torch.distributed, where each process leaves its own and process 0 looks for
them: a process without a recorder is missed for a moment, and no collective can wait for it for
ever. The training's own communication is not touched.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import numpy as np

from bncheck.recording.batch import Batch

#: Counts the recorders of a process; all processes make theirs in the same order.
_SESSIONS: Final = itertools.count()
#: How long process 0 waits for the others, which take the same step at about the same time.
_PATIENCE: Final = timedelta(seconds=10)
#: Messages that a process leaves lying before it takes the oldest away.
_LEFT: Final = 8
_ARRAYS: Final = ("mean", "var", "unit")


class Ranks:
    """The processes around this one; a single one where nothing is distributed."""

    def __init__(self, name: str) -> None:
        import torch.distributed as dist

        self.name = f"{next(_SESSIONS)}/{name}"  # what an earlier one left is not taken for this
        self._store: Any = None
        self.rank, self.number = 0, 1
        if dist.is_available() and dist.is_initialized():
            self.rank, self.number = dist.get_rank(), dist.get_world_size()
        if self.number > 1:
            from torch.distributed.distributed_c10d import _get_default_store

            self._store = _get_default_store()
        self._left: list[str] = []

    def gathered(
        self, tag: str, batches: Mapping[str, Batch], channels: Mapping[str, int]
    ) -> list[dict[str, Batch]]:
        """In process 0 every process's batches, its own first; in the others nothing.

        `tag` names model and step; `channels` are the layers and their widths, the same in all.
        Raises whatever keeps a process from answering in time.
        """
        if self._store is None:
            return [] if self.rank else [dict(batches)]
        if self.rank:
            key = self._key(tag, self.rank)
            self._store.set(key, _packed(batches, channels))
            self._left.append(key)
            if len(self._left) > _LEFT:  # long taken
                self._store.delete_key(self._left.pop(0))
            return []
        keys = [self._key(tag, rank) for rank in range(1, self.number)]
        self._store.wait(keys, _PATIENCE)
        others = [_unpacked(self._store.get(key), channels) for key in keys]
        return [dict(batches), *others]

    def part(self) -> None:
        """Go on alone: the others are not waited for again."""
        self._store = None

    def _key(self, tag: str, rank: int) -> str:
        return f"bncheck/{self.name}/{tag}/{rank}"


def _packed(batches: Mapping[str, Batch], channels: Mapping[str, int]) -> bytes:
    parts: list[Any] = []
    for name, width in channels.items():
        batch = batches.get(name)
        if batch is None or batch.mean.size != width:
            parts.append(np.full(3 + len(_ARRAYS) * width, np.nan))
        else:
            parts.append([batch.images, batch.calls, batch.largest])
            parts += [getattr(batch, role) for role in _ARRAYS]
    return np.concatenate(parts).astype("<f8").tobytes()


def _unpacked(data: bytes, channels: Mapping[str, int]) -> dict[str, Batch]:
    numbers, found, start = np.frombuffer(data, "<f8"), {}, 0
    for name, width in channels.items():
        images, calls, largest = map(float, numbers[start : start + 3])
        arrays = numbers[start + 3 : start + 3 + len(_ARRAYS) * width].reshape(-1, width)
        start += 3 + arrays.size
        if np.isfinite(images):
            mean, var, unit = arrays
            found[name] = Batch(mean, var, unit, images, int(calls), largest)
    return found


def of_layer(everywhere: Sequence[Mapping[str, Batch]], name: str) -> list[tuple[int, Batch]]:
    """A layer's batches in the processes that had one, each with its process."""
    return [(rank, batches[name]) for rank, batches in enumerate(everywhere) if name in batches]


def is_helper() -> bool:
    """Whether this is a process of a distributed training that is not the first."""
    import os

    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() != 0
    return os.environ.get("RANK", "0") not in ("", "0")
