"""What changed in a layer from one snapshot to the next, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bncheck.series.movement import Movement


@dataclass(frozen=True, slots=True)
class Change:
    """From the snapshot before `place` to that at `place`."""

    place: int
    parameters: bool
    statistics: bool
    has_parameters: bool


def changes_of(movement: Movement, name: str) -> Iterator[Change]:
    """Every interval in which both snapshots know the layer."""
    snapshots = movement.snapshots
    for place in range(1, len(snapshots)):
        before, after = snapshots[place - 1].states.get(name), snapshots[place].states.get(name)
        if before is not None and after is not None and after.usable:
            yield Change(
                place,
                before.parameters != after.parameters,
                before.buffers != after.buffers,
                after.parameters is not None,
            )
