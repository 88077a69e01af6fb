"""Snapshots in the order of the training, one for each step, with short labels."""

from __future__ import annotations

from collections.abc import Sequence

from bncheck.series.naming import natural_key, numbers_in, rank_of, short_labels
from bncheck.series.snapshot import Snapshot


def ordered(snapshots: list[Snapshot], order: str) -> tuple[list[Snapshot], str]:
    """By the step or epoch in all files; failing that by their names' numbers; or as given."""
    by_name = sorted(snapshots, key=lambda s: natural_key(str(s.path)))
    if order == "auto":
        for how in ("step", "epoch"):
            if all(_told(s, how) is not None for s in snapshots):
                return sorted(by_name, key=lambda s: _told(s, how) or 0), how
        order = "name" if all(numbers_in(s.path.name) for s in snapshots) else "given"
    return (by_name if order == "name" else snapshots), order


def _told(snapshot: Snapshot, how: str) -> int | None:
    return snapshot.epoch if how == "epoch" else snapshot.step


def by_rank(snapshots: list[Snapshot]) -> tuple[list[Snapshot], dict[int, tuple[Snapshot, ...]]]:
    """Files that differ in nothing but the rank in their names are one snapshot."""
    groups: dict[str, list[Snapshot]] = {}
    for snapshot in snapshots:
        found = rank_of(snapshot.path)
        groups.setdefault(found[0] if found else str(snapshot.path), []).append(snapshot)
    main, ranks = [], {}
    for place, group in enumerate(groups.values()):
        group.sort(key=lambda s: (rank_of(s.path) or ("", 0))[1])
        main.append(group[0])
        if len(group) > 1:
            ranks[place] = tuple(group[1:])
    return main, ranks


def labels_of(snapshots: Sequence[Snapshot]) -> list[str]:
    """The epoch where all files tell it apart, else the step they name, else the file's name."""
    epochs = [s.epoch for s in snapshots]
    if None not in epochs and len(set(epochs)) == len(epochs):
        return [f"epoch {epoch}" for epoch in epochs]
    steps = [s.step for s in snapshots]
    if None not in steps and len(set(steps)) == len(steps):
        return [f"step {step}" for step in steps]
    return short_labels([s.path for s in snapshots])
