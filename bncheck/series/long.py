"""A long record, read as a stream: every snapshot is compared, some are kept for the pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bncheck.core.errors import BncheckError
from bncheck.layers.norm_layer import Assumptions
from bncheck.reading.remote import place_of
from bncheck.series.alike import RecordReader
from bncheck.series.snapshot import Snapshot, read_snapshot
from bncheck.series.tracks import LAST, REFERENCE, Tracks

#: Snapshots whose numbers are kept; a record with no more is no long one.
SHOWN: Final = 120

#: Called with the number of snapshots done and how many there are.
Tell = Callable[[int, int], None]


@dataclass
class LongRecord:
    """Its snapshots, without numbers but at the places in `shown`, and how far they are apart.

    `base` is the snapshot that all are compared with, None for the one before each.
    """

    tracks: Tracks
    base: Snapshot | None
    snapshots: list[Snapshot] = field(default_factory=list)
    errors: list[BncheckError] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)

    def add(self, snapshot: Snapshot, shown: bool) -> bool:
        """The next one; False where its layers are not those of the others."""
        widths = {name: state.channels for name, state in snapshot.states.items()}
        if widths != self.tracks.widths:
            return False
        self.tracks.add(snapshot)
        if self.snapshots:
            self._let_go(len(self.snapshots) - 1, _turns(self.snapshots[-1], snapshot))
        if shown:
            self.shown.append(len(self.snapshots))
        self.snapshots.append(snapshot)
        return True

    def _let_go(self, place: int, turns: bool) -> None:
        """Of a snapshot that has been compared; samples of weights tell what goes on from where."""
        held = self.snapshots[place]
        samples = turns or (place > 0 and _turns(self.snapshots[place - 1], held))
        if self.shown[-1:] != [place]:
            self.snapshots[place] = held.without_numbers(samples)


def read_long(
    files: Sequence[Path], key: str | None, given: Assumptions, word: str, tell: Tell
) -> LongRecord | None:
    """The files of a record; None where their layers differ, and they are to be read as any others.

    `word` is the reference: last, first, previous or a file.
    """
    reader = RecordReader(key, given)
    last = _first_of(reversed(files), reader, usable=False)
    widths = {} if last is None else {n: state.channels for n, state in last.states.items()}
    if last is None or not widths or not all(widths.values()):
        return None
    base = _base(word, files, reader)
    tracks = Tracks(widths)
    tracks.hold(LAST, last)
    if base is not None:
        if not _comparable(base, widths):
            return None
        tracks.hold(REFERENCE, base)
    record = LongRecord(tracks, base)
    shown = {round(place * (len(files) - 1) / (SHOWN - 1)) for place in range(SHOWN)}
    for number, path in enumerate(files):
        try:
            fits = record.add(reader.read(path), number in shown)
        except BncheckError as error:
            record.errors.append(error.about(str(path)))
            fits = True
        if not fits:
            return None
        tell(number + 1, len(files))
    return record


def _base(word: str, files: Sequence[Path], reader: RecordReader) -> Snapshot | None:
    """A recorded training that ended in NaN is compared with the last snapshot that can be."""
    if word == "previous":
        return None
    if word == "first":
        return _first_of(files, reader, usable=False)
    if word == "last":
        usable = _first_of(reversed(files), reader, usable=True)
        return usable or _first_of(reversed(files), reader, usable=False)
    return read_snapshot(place_of(word), reader.key, reader.given)


def _first_of(files: Iterable[Path], reader: RecordReader, usable: bool) -> Snapshot | None:
    """The first that can be read, and compared."""
    for path in files:
        try:
            snapshot = reader.read(path)
        except BncheckError:
            continue
        if snapshot.usable or not usable:
            return snapshot
    return None


def _comparable(base: Snapshot, widths: Mapping[str, int]) -> bool:
    return base.usable and all(
        base.states[name].channels == width for name, width in widths.items() if name in base.states
    )


def _turns(before: Snapshot, after: Snapshot) -> bool:
    """Whether a counter falls or the training was resumed: BN305 then looks at the weights."""
    first, second = before.training, after.training
    if first is None or second is None or first.run != second.run:
        return True
    return any(
        (after.states[name].counter or 0) < (state.counter or 0)
        for name, state in before.states.items()
    )
