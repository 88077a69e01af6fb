"""Snapshots read one after another, in order; of each only the normalisation layers are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bncheck.core.errors import BncheckError
from bncheck.layers.norm_layer import Assumptions
from bncheck.reading.record import Recorded
from bncheck.series.long import LongRecord, Tell, read_long
from bncheck.series.oddities import oddities, parts_taken
from bncheck.series.order import by_rank, labels_of, ordered
from bncheck.series.records import Unfolded, unfold
from bncheck.series.snapshot import Snapshot, read_snapshot


@dataclass(frozen=True, slots=True)
class Series:
    """Snapshots in order, other ranks' files beside those of rank 0, and what went wrong.

    `key` is the part of every file that was asked for, `recorded` what was found in training,
    `long` the same snapshots of a record that was read as a stream.
    """

    snapshots: tuple[Snapshot, ...]
    ranks: Mapping[int, tuple[Snapshot, ...]]  # by the place of rank 0's snapshot
    order: str
    notes: tuple[str, ...]
    errors: tuple[BncheckError, ...]
    key: str | None = None
    recorded: tuple[Recorded, ...] = ()
    long: LongRecord | None = None

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
    reference: str = "last",
) -> Series:
    """Read every file once and put them in order, `last` behind all others.

    A record stands for its snapshots, and one that is long is compared with `reference` (last,
    first, previous or a file) while it is read. A file that cannot be read is an error beside.
    """
    files = unfold(paths, key)
    long = _long(files, given, tell, order, reference) if last is None else None
    if long is not None:
        return _series(long.snapshots, files, "step", [*files.errors, *long.errors], None, long)
    read, errors = [], list(files.errors)
    for number, path in enumerate(files.paths):
        try:
            read.append(read_snapshot(path, files.key, given))
        except BncheckError as error:
            errors.append(error.about(str(path)))
        tell(number + 1, len(files.paths))
    snapshots, how = ordered(read, order)
    snapshots = sorted(snapshots, key=lambda s: s.path == last)
    return _series(snapshots, files, how, errors, last, None)


def _series(
    snapshots: list[Snapshot],
    files: Unfolded,
    how: str,
    errors: Sequence[BncheckError],
    last: Path | None,
    long: LongRecord | None,
) -> Series:
    main, ranks = by_rank(snapshots)
    if main:
        last_one = main[-1]
        main = [snapshot.named_like(last_one) for snapshot in main]
        ranks = {n: tuple(s.named_like(last_one) for s in group) for n, group in ranks.items()}
        _refuse_other_widths([*main, *(s for group in ranks.values() for s in group)])
    labels = labels_of(main)
    main = [replace(s, label=label) for s, label in zip(main, labels, strict=True)]
    parts = parts_taken(main) if files.key is None else ()
    thinned = files.thinned if long is None else files.every_thinned
    notes = (*files.notes, *thinned, *parts, *oddities(main, how, last))
    return Series(
        tuple(main), ranks, how, notes, tuple(errors), files.key, files.recorded, long
    )  # fmt: skip


def _long(
    files: Unfolded, given: Assumptions, tell: Tell, order: str, reference: str
) -> LongRecord | None:
    """A record as a stream, where its index tells the order that the files have."""
    if not files.every or order not in ("auto", "step"):
        return None
    long = read_long(files.every, files.key, given, reference, tell)
    if long is None or len(long.snapshots) < 2:
        return None
    snapshots, how = ordered(long.snapshots, order)
    _, ranks = by_rank(snapshots)
    same = all(one is other for one, other in zip(snapshots, long.snapshots, strict=True))
    return long if same and how == "step" and not ranks else None


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
