"""Snapshots read one after another, in order; of each only the normalisation layers are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bncheck.core.errors import BncheckError
from bncheck.layers.norm_layer import Assumptions
from bncheck.reading.record import Recorded
from bncheck.series.oddities import oddities, parts_taken
from bncheck.series.order import by_rank, labels_of, ordered
from bncheck.series.records import unfold
from bncheck.series.snapshot import Snapshot, read_snapshot

#: Called with the number of snapshots done and how many there are.
Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Series:
    """Snapshots in order, other ranks' files beside those of rank 0, and what went wrong.

    `key` is the part of every file that was asked for, `recorded` what was found in training.
    """

    snapshots: tuple[Snapshot, ...]
    ranks: Mapping[int, tuple[Snapshot, ...]]  # by the place of rank 0's snapshot
    order: str
    notes: tuple[str, ...]
    errors: tuple[BncheckError, ...]
    key: str | None = None
    recorded: tuple[Recorded, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every layer of any snapshot, in the order of the files."""
        return tuple(dict.fromkeys(name for s in self.snapshots for name in s.states))


def read_series(
    paths: Sequence[Path],
    key: str | None,
    given: Assumptions,
    tell: Tell,
    order: str = "auto",
    last: Path | None = None,
) -> Series:
    """Read every file once and put them in order, `last` behind all others.

    A record stands for its snapshots. A file that cannot be read is an error beside.
    """
    files = unfold(paths, key)
    read, errors = [], list(files.errors)
    for number, path in enumerate(files.paths):
        try:
            read.append(read_snapshot(path, files.key, given))
        except BncheckError as error:
            errors.append(error.about(str(path)))
        tell(number + 1, len(files.paths))
    snapshots, how = ordered(read, order)
    snapshots = sorted(snapshots, key=lambda s: s.path == last)
    main, ranks = by_rank(snapshots)
    if main:
        _refuse_other_widths([*main, *(s for group in ranks.values() for s in group)])
    labels = labels_of(main)
    main = [replace(s, label=label) for s, label in zip(main, labels, strict=True)]
    parts = parts_taken(main) if files.key is None else ()
    notes = (*files.notes, *parts, *oddities(main, how, last))
    return Series(tuple(main), ranks, how, notes, tuple(errors), files.key, files.recorded)


def _refuse_other_widths(snapshots: Sequence[Snapshot]) -> None:
    widths: dict[str, tuple[int, Snapshot]] = {}
    for snapshot in snapshots:
        for name, state in snapshot.states.items():
            width, first = widths.setdefault(name, (state.channels, snapshot))
            if state.channels != width:
                raise BncheckError(
                    f"layer {name} has {state.channels} channels, and {width} in {first.path}",
                    "compare snapshots of one architecture",
                    str(snapshot.path),
                )
