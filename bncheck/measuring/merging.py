"""The moments of layers over all batches, in the order in which the layers are first reached.

Merging batches one by one costs as much as taking them, so they wait for one another. Small batches
of vectors wait as they are: their moments, taken one by one, cost as much as a small layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.measuring.class_means import Layout, apart
from bncheck.measuring.moments import Moments, merged, merged_all, packed_vectors, unpack

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from bncheck.measuring.messages import Parts

    Floats = NDArray[np.float64]

#: Stands before the name of a layer whose images are given as they are, (N, C) about its pivot.
VECTORS: Final = "\x04"
#: Stands before the place of a call, of several in a forward, and before the name of its layer.
_CALL: Final = "\x02"
#: Moments of batches wait up to so many bytes.
_WAITING: Final = 1 << 22
#: And vectors. With what is computed of so many channels of them they stay in the cache.
_VECTORS_WAITING: Final = 1 << 20
_CHANNELS: Final = 256


class Merging:
    """What is added batch by batch; the pivots are those of layers whose vectors are added."""

    def __init__(self, pivots: Mapping[str, Tensor] = MappingProxyType({})) -> None:
        self._pivots = pivots
        self._added: dict[Layout, list[Floats]] = {}
        self._vectors: dict[str, list[Floats]] = {}
        self._bytes = 0

    def add(self, batch: Parts) -> None:
        """Merge one batch into the whole; layers side by side, as long as they recur."""
        packed = {name: rows for name, rows in batch.items() if not name.startswith(VECTORS)}
        if packed:
            layout = tuple((name, rows.shape[1]) for name, rows in packed.items())
            self._wait(layout, np.concatenate([*packed.values()], axis=1))
        if len(packed) < len(batch):
            for name in [name for name in batch if name not in packed]:
                self._vectors.setdefault(name.removeprefix(VECTORS), []).append(batch[name])
                self._bytes += batch[name].nbytes
            if self._bytes > _VECTORS_WAITING:
                self._pack()

    @property
    def moments(self) -> dict[str, Moments]:
        """What was added so far, by layer."""
        self._pack()
        found: dict[str, Floats] = {}
        for layout, parts in self._added.items():
            for name, rows in apart(layout, merged_all(parts)):
                found[name] = merged(found[name], rows) if name in found else rows
        return {name: unpack(rows) for name, rows in found.items()}

    def _wait(self, layout: Layout, rows: Floats) -> None:
        parts = self._added.setdefault(layout, [])
        parts.append(rows)
        if len(parts) * rows.nbytes > _WAITING:
            parts[:] = [merged_all(parts)]

    def _pack(self) -> None:
        """The moments of all vectors that wait."""
        import torch

        rows = {name: np.concatenate(parts) for name, parts in self._vectors.items()}
        for names in _groups(rows):
            layout = tuple((name, rows[name].shape[1]) for name in names)
            m = torch.from_numpy(np.concatenate([rows[name] for name in names], axis=1))
            pivot = torch.cat([self._pivots[name] for name in names])
            self._wait(layout, packed_vectors(m, pivot.double().cpu().numpy()))
        self._vectors.clear()
        self._bytes = 0


def _groups(rows: Mapping[str, Floats]) -> Iterator[list[str]]:
    """Layers side by side that saw as many images: each alone would cost the calls of several."""
    group: list[str] = []
    channels = 0
    for name, numbers in rows.items():
        channels += numbers.shape[1]
        if group and (channels > _CHANNELS or len(numbers) != len(rows[group[0]])):
            yield group
            group, channels = [], numbers.shape[1]
        group.append(name)
    if group:
        yield group


def call_name(layer: str, place: int) -> str:
    """The name of the moments of one call of several in a forward."""
    return f"{_CALL}{place}{_CALL}{layer}"


def by_call(moments: Mapping[str, Moments]) -> tuple[dict[str, Moments], dict[str, list[Moments]]]:
    """The moments of layers, and those of each call for layers that are called several times."""
    layers: dict[str, Moments] = {}
    calls: dict[str, list[Moments]] = {}
    for name, found in moments.items():
        if name.startswith(_CALL):
            calls.setdefault(name.split(_CALL, 2)[2], []).append(found)
        else:
            layers[name] = found
    return layers, calls
