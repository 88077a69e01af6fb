"""Which snapshots go when there are too many: those that leave the smallest gaps for their age."""

from __future__ import annotations

from collections.abc import Collection, Sequence

#: So much of what is kept goes at a time, so that the index is seldom written anew.
_SHARE = 8


def superfluous(steps: Sequence[int], keep: int, held: Collection[int] = ()) -> set[int]:
    """The steps to drop so that at most `keep` are left; none while there are no more.

    Gaps grow geometrically with age: one goes if its neighbours are close together, measured by how
    long ago they were. The first, the last two, and the steps in `held` stay as long as they can.
    """
    if len(steps) <= keep:
        return set()
    left = list(steps)
    wanted = max(2, keep - keep // _SHARE)
    newest = left[-1] + 1
    while len(left) > wanted:
        places = range(1, max(len(left) - 2, 2))
        free = [place for place in places if left[place] not in held] or list(places)
        place = min(free, key=lambda p: (left[p + 1] - left[p - 1]) / (newest - left[p - 1]))
        del left[place]
    return set(steps).difference(left)
