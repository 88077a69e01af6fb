"""What is odd about a series, a line each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from bncheck.reading.checkpoint import part_name
from bncheck.series.naming import natural_key, numbers_in
from bncheck.series.snapshot import Snapshot


def parts_taken(snapshots: Sequence[Snapshot]) -> Iterator[str]:
    """The part of each file that was compared, where the user chose none."""
    chosen = [s for s in snapshots if s.others and s.training is None]
    if not chosen:
        return
    others = ", ".join(dict.fromkeys(part_name(other) for s in chosen for other in s.others[:3]))
    keys: dict[str, list[Snapshot]] = {}
    for snapshot in snapshots:
        keys.setdefault(snapshot.key, []).append(snapshot)
    if len(keys) == 1:
        yield (
            f"using {part_name(chosen[0].key)} of every snapshot; --key selects another: {others}"
        )
        return
    parts = (f"{part_name(key)} of {group[0].path} ({len(group)})" for key, group in keys.items())
    yield (
        f"using different parts: {', '.join(parts)}; --key selects the same part of all: {others}"
    )


def oddities(snapshots: Sequence[Snapshot], how: str, last: Path | None) -> Iterator[str]:
    """What is odd about the series: copies, an order that names or counters contradict."""
    yield from _copies(snapshots)
    if how in ("step", "epoch"):
        numbered = [s for s in snapshots if numbers_in(s.path.name) and s.path != last]
        by_name = sorted(numbered, key=lambda s: natural_key(str(s.path)))
        for named, told in zip(by_name, numbered, strict=True):
            if named is not told:
                yield (
                    f"the file names give another order ({named.path} before {told.path}): "
                    f"using the {how} in the files; --order name uses the names"
                )
                break
    # Where the files tell their step, a counter that falls is no question of order: BN305.
    for before, after in () if how == "step" else itertools.pairwise(snapshots):
        if before.counter and after.counter and after.counter < before.counter:
            yield (
                f"the batch counters fall from {before.counter:,} in {before.path} to "
                f"{after.counter:,} in {after.path}: the order may be wrong"
            )
    yield from _unusable(snapshots)


def _copies(snapshots: Sequence[Snapshot]) -> Iterator[str]:
    """A line for all snapshots in which every layer is that of an earlier one."""
    seen: dict[tuple[tuple[str, bytes | None, bytes], ...], Snapshot] = {}
    copies: list[tuple[Path, Path]] = []
    for snapshot in snapshots:
        digests = tuple((n, p, b) for n, (p, b) in sorted(snapshot.digests.items()))
        first = seen.setdefault(digests, snapshot)
        if digests and first is not snapshot and snapshot.training is None:
            copies.append((snapshot.path, first.path))
    if not copies:
        return
    (copy, original), number = copies[0], len(copies)
    if number == 1:
        yield f"{copy} is a copy of {original}: every layer is the same"
    else:
        yield f"{number} snapshots are copies of earlier ones, such as {copy} of {original}"


def _unusable(snapshots: Sequence[Snapshot]) -> Iterator[str]:
    """Layers that cannot be compared; of a record, which has many snapshots, the first."""
    said = False
    for snapshot in snapshots:
        bad = [n for n, s in snapshot.states.items() if not s.usable and s.channels]
        if bad and not (said and snapshot.training is not None):
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            yield f"{snapshot.path} has no usable statistics in layer {bad[0]}{more}"
            said = True
