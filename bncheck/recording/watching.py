"""`watch`: what a record says at this moment. Snapshots that were read once are not read again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from bncheck._version import __version__
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Verdict, verdict_of
from bncheck.core.report import Report
from bncheck.drifting.recorded import with_recorded
from bncheck.layers.norm_layer import Assumptions
from bncheck.reading.record import Entry, Record, is_record, read_record
from bncheck.rules.choosing import choose_rules, switched_off
from bncheck.series.snapshot import Snapshot, read_snapshot

#: Snapshots that are looked back on: as many as a terminal has columns.
_LOOK_BACK = 60


@dataclass(frozen=True, repr=False)
class WatchReport(Report):
    """A record as it stands. Rows are layers, columns the snapshots that are looked back on.

    `w2` is that of the running statistics from the batch at each step, None where it is not known.
    """

    command: ClassVar = "watch"
    asks: ClassVar = ("BN3",)

    record: Record
    series: str
    snapshots: tuple[Snapshot, ...]
    layers: tuple[str, ...]
    w2: tuple[tuple[float | None, ...], ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def layer_names(self) -> Sequence[str]:
        """The layers' names."""
        return self.layers

    @property
    def last(self) -> Entry:
        """The newest snapshot's line."""
        return self.record.entries[-1]

    @property
    def now(self) -> tuple[float | None, ...]:
        """Of every layer, W2 in the newest snapshot that saw a batch.

        The one that closes a record sees none: its step was over when it turned out the last.
        """
        places = [place for place, snapshot in enumerate(self.snapshots) if _seen(snapshot)]
        return tuple(row[places[-1]] if places else None for row in self.w2)

    @property
    def verdict(self) -> str:
        """Broken (errors) or suspect (warnings) where something was found."""
        verdict = verdict_of(self.findings)
        return "no fault found" if verdict is Verdict.HEALTHY else verdict.value

    def rows(self) -> list[dict[str, Any]]:
        """A layer in a snapshot a row."""
        return [
            {"layer": layer, "step": snapshot.step, "w2": w2}
            for layer, row in zip(self.layers, self.w2, strict=True)
            for snapshot, w2 in zip(self.snapshots, row, strict=True)
        ]

    def to_dict(self) -> dict[str, object]:
        """The report as plain data: schema bncheck.watch/1 of its JSON."""
        last = self.last
        return {
            "schema": "bncheck.watch/1",
            "bncheck": __version__,
            "record": str(self.record.folder),
            "series": self.series or None,
            "step": last.step,
            "epoch": last.epoch,
            "loss": last.loss,
            "lr": last.lr,
            "time": last.time,
            "snapshots": len(self.record.entries),
            "steps": [snapshot.step for snapshot in self.snapshots],
            "layers": list(self.layers),
            "w2": [list(row) for row in self.w2],
            "findings": [finding.to_dict() for finding in self.findings],
        }


@dataclass
class Watch:
    """Looks at one record again and again; `series` is one of its other models."""

    folder: Path
    series: str = ""
    select: Sequence[str] = ()
    ignore: Sequence[str] = ()
    _read: dict[Path, Snapshot] = field(default_factory=dict)

    def look(self) -> WatchReport:
        """What the record says now. Raises BncheckError where there is none, or nothing in it."""
        if not is_record(self.folder):
            raise BncheckError(
                "is not a record of bncheck.recording",
                "give the folder that Recorder was given",
                str(self.folder),
            )
        record = read_record(self.folder)
        if self.series and self.series not in record.series:
            raise BncheckError(
                f"holds no model called {self.series!r}",
                f"choose from {', '.join(record.series) or 'the one model'}",
                str(self.folder),
            )
        snapshots = self._snapshots(record)
        if not snapshots:
            raise BncheckError("holds no snapshot yet", "wait for the first", str(self.folder))
        layers = tuple(dict.fromkeys(name for s in snapshots for name in _seen(s)))
        w2 = tuple(tuple(_w2(snapshot, name) for snapshot in snapshots) for name in layers)
        told = record.found_in(self.series)
        chosen = choose_rules(self.select, self.ignore)
        findings = list(with_recorded([], told, choose_rules(self.select, ())))
        made = tuple(finding for finding in findings if chosen.made(finding))
        notes = tuple(switched_off(findings, self.select, self.ignore))
        return WatchReport(record, self.series, snapshots, layers, w2, made, notes)

    def changed(self) -> tuple[int, int]:
        """What is another after another snapshot or finding."""
        try:
            status = (self.folder / "index.jsonl").stat()
        except OSError:
            return 0, 0
        return status.st_size, status.st_mtime_ns

    def _snapshots(self, record: Record) -> tuple[Snapshot, ...]:
        held = [entry for entry in record.entries if self.series in entry.files][-_LOOK_BACK:]
        paths = [record.file(entry, self.series) for entry in held]
        known = {path: self._read[path] for path in paths if path in self._read}
        for path in paths:
            if path not in known:
                known[path] = read_snapshot(path, None, Assumptions())
        self._read = known
        return tuple(known[path] for path in paths)


def _seen(snapshot: Snapshot) -> Sequence[str]:
    return list(snapshot.training.seen) if snapshot.training is not None else []


def _w2(snapshot: Snapshot, name: str) -> float | None:
    seen = snapshot.training.seen.get(name) if snapshot.training is not None else None
    w2 = None if seen is None else seen.w2
    return None if w2 is None or math.isnan(w2) else w2
