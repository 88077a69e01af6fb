"""Records among the paths of a series become their snapshots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bncheck.core.errors import BncheckError
from bncheck.core.words import count
from bncheck.layers.norm_layer import Assumptions
from bncheck.reading.record import Entry, Record, Recorded, is_record, read_record
from bncheck.reading.record_snapshot import BATCH_PART
from bncheck.series.long import SHOWN
from bncheck.series.snapshot import read_snapshot

#: Numbers that the snapshots of one record may hold in memory: 300 of a ResNet-50, all of a small
#: network. Means and variances are 64 MB.
_MOST_NUMBERS: Final = 16_000_000
_FEWEST: Final = 100
#: And snapshots of one record, whatever their size: each takes some milliseconds to read.
_MOST: Final = 1_000
#: Of one that is read as a stream: its layers in so many snapshots, 200 bytes each, and snapshots.
_MOST_STATES: Final = 300_000
_MOST_STREAMED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Unfolded:
    """The files of a series, the part of them to take, and what records tell besides.

    `paths` are no more than memory has room for, and `thinned` says what was left out. `every` are
    those of a single long record, which can be read as a stream; then `every_thinned` does.
    """

    paths: tuple[Path, ...]
    key: str | None
    notes: tuple[str, ...] = ()
    thinned: tuple[str, ...] = ()
    every: tuple[Path, ...] = ()
    every_thinned: tuple[str, ...] = ()
    recorded: tuple[Recorded, ...] = ()
    errors: tuple[BncheckError, ...] = ()


@dataclass(slots=True)
class _Unfolding:
    paths: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    thinned: list[str] = field(default_factory=list)
    every: list[Path] = field(default_factory=list)
    every_thinned: list[str] = field(default_factory=list)
    recorded: list[Recorded] = field(default_factory=list)
    errors: list[BncheckError] = field(default_factory=list)


def unfold(paths: Iterable[Path], key: str | None) -> Unfolded:
    """Every record replaced by its snapshots: of the model, or of the other model called `key`.

    Of a network without normalisation layers that is what its batches were like.
    """
    found, part, given = _Unfolding(), key, list(paths)
    for path in given:
        if not is_record(path):
            found.paths.append(path)
            continue
        try:
            part = _add(found, read_record(path), key)
        except BncheckError as error:
            found.errors.append(error.about(str(path)))
    alone = len(given) == 1 and len(found.every) > SHOWN
    return Unfolded(
        tuple(found.paths), part, tuple(found.notes), tuple(found.thinned),
        tuple(found.every) if alone else (), tuple(found.every_thinned), tuple(found.recorded),
        tuple(found.errors),
    )  # fmt: skip


def _add(found: _Unfolding, record: Record, key: str | None) -> str | None:
    """Add a record's snapshots; the part of its files that is to be compared."""
    series = key if key in record.series and key is not None else ""
    part = None if series else key
    entries = [entry for entry in record.entries if series in entry.files]
    if not entries:
        raise BncheckError("is a record without a snapshot", "wait until there is one")
    files = _files(found, record, entries, series)
    entries = [entry for entry in entries if entry.step in files]
    if not entries:
        return part
    layers, numbers = _size(files[entries[0].step], part)
    if part is None and not numbers:
        part = BATCH_PART
        layers, numbers = _size(files[entries[0].step], BATCH_PART)
    recorded = record.found_in(series)
    steps = {finding.step for finding in recorded}
    most = min(max(_FEWEST, _MOST_NUMBERS // max(numbers, 1)), _MOST)
    streamed = min(max(_FEWEST, _MOST_STATES // max(layers, 1)), _MOST_STREAMED)
    for number, paths, notes in (
        (most, found.paths, found.thinned), (streamed, found.every, found.every_thinned)
    ):  # fmt: skip
        chosen = _chosen(entries, number, steps)
        paths += [files[entry.step] for entry in chosen]
        if len(chosen) < len(entries):
            notes.append(
                f"{record.folder}: comparing {len(chosen):,} of its "
                f"{count(len(entries), 'snapshot')}, those at which something was found among them"
            )
    found.recorded += recorded
    if record.trainings > 1:
        found.notes.append(
            f"{record.folder} holds {record.trainings} trainings: comparing the last; record each "
            "in a folder of its own"
        )
    others = ", ".join(record.series)
    if others and key is None:
        found.notes.append(f"{record.folder}: comparing the model; --key selects another: {others}")
    return part


def _files(
    found: _Unfolding, record: Record, entries: Sequence[Entry], series: str
) -> dict[int, Path]:
    """The file of each step; one that is not there (any more) is an error beside."""
    files = {}
    for entry in entries:
        try:
            files[entry.step] = record.file(entry, series)
        except BncheckError as error:
            found.errors.append(error.about(str(record.folder)))
    return files


def _size(path: Path, part: str | None) -> tuple[int, int]:
    """How many layers a snapshot has, and how many numbers their statistics are."""
    try:
        states = read_snapshot(path, part, Assumptions()).states.values()
    except BncheckError:
        return 0, 0
    return len(states), sum(2 * state.channels for state in states)


def _chosen(entries: Sequence[Entry], most: int, steps: set[int]) -> list[Entry]:
    """At most about so many entries, evenly, and with each finding those around it."""
    if len(entries) <= most:
        return list(entries)
    last = len(entries) - 1
    places = {round(place * last / (most - 1)) for place in range(most)}
    found = sorted(steps)[-most // 4 :]
    for place, entry in enumerate(entries):
        if any(entry.step >= step for step in found):
            found = [step for step in found if step > entry.step]
            places |= {max(place - 1, 0), place}
    return [entries[place] for place in sorted(places)]
