"""The moments of layers over all batches, in the order in which the layers are first reached.

Merging batches one by one costs as much as taking them, so they wait for one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.measuring.class_means import Layout, apart
from bncheck.measuring.moments import Moments, merged, merged_all, unpack

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bncheck.measuring.messages import Parts

    Floats = NDArray[np.float64]

#: Stands before the place of a call, of several in a forward, and before the name of its layer.
_CALL: Final = "\x02"
#: Moments of batches wait up to so many bytes.
_WAITING: Final = 1 << 22


class Merging:
    """What is added batch by batch."""

    def __init__(self) -> None:
        self._added: dict[Layout, list[Floats]] = {}

    def add(self, batch: Parts) -> None:
        """Merge one batch into the whole; layers side by side, as long as they recur."""
        if batch:
            layout = tuple((name, rows.shape[1]) for name, rows in batch.items())
            rows = np.concatenate([*batch.values()], axis=1)
            parts = self._added.setdefault(layout, [])
            parts.append(rows)
            if len(parts) * rows.nbytes > _WAITING:
                parts[:] = [merged_all(parts)]

    @property
    def moments(self) -> dict[str, Moments]:
        """What was added so far, by layer."""
        found: dict[str, Floats] = {}
        for layout, parts in self._added.items():
            for name, rows in apart(layout, merged_all(parts)):
                found[name] = merged(found[name], rows) if name in found else rows
        return {name: unpack(rows) for name, rows in found.items()}


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
