"""The index of a record, a folder that `bncheck.recording` writes: docs/recording.md.

`index.jsonl` has a line of JSON for each start of the training, each snapshot and each finding. A
line that a killed process left unfinished, the last one, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_FINDINGS, MAX_INDEX_BYTES, MAX_RECORDED
from bncheck.reading.checkpoint import as_number
from bncheck.reading.json_text import parse
from bncheck.reading.record_snapshot import whole
from bncheck.reading.referred import referred
from bncheck.reading.source import Source

INDEX: Final = "index.jsonl"
SNAPSHOTS: Final = "snapshots"
SCHEMA: Final = "bncheck.record/1"
#: What to do where the index is lost.
_WITHOUT: Final = f"give its folder {SNAPSHOTS}/, whose files are whole, and record elsewhere"
#: What the lines are.
RUN, SNAPSHOT, FINDING = "run", "snapshot", "finding"


@dataclass(frozen=True, slots=True)
class Entry:
    """A snapshot. `files` has the model's own file under "", those of other models by name."""

    files: Mapping[str, str]
    step: int
    epoch: int | None = None
    lr: float | None = None
    loss: float | None = None
    time: float | None = None
    run: int = 0
    counter: int | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A finding as it was made in training: facts, of which whoever reports it makes sentences."""

    rule: str
    layer: str | None
    step: int
    series: str = ""
    severity: str = ""

    @property
    def place(self) -> str | None:
        """The layer; that of another model behind its name, "ema/layer1.bn"."""
        return f"{self.series}/{self.layer or '(all)'}" if self.series else self.layer


@dataclass(frozen=True, slots=True)
class Record:
    """The snapshots of the last training in the folder, in the order of its steps.

    Those that a resumed training took again are there once; `trainings` counts the trainings that
    began anew in this folder, `runs` all starts.
    """

    folder: Path
    entries: tuple[Entry, ...]
    findings: tuple[Recorded, ...] = ()
    runs: int = 1
    trainings: int = 1

    @property
    def series(self) -> tuple[str, ...]:
        """The names of the other models that it holds."""
        found = {name: None for entry in self.entries for name in entry.files}
        return tuple(name for name in found if name)

    def found_in(self, series: str) -> tuple[Recorded, ...]:
        """What was found in one of the other models; in the model and in all others for ""."""
        if not series:
            return self.findings
        return tuple(replace(f, series="") for f in self.findings if f.series == series)

    def file(self, entry: Entry, series: str = "") -> Path:
        """The file of a snapshot. Raises BncheckError for one that leads out of the folder."""
        return referred(self.folder, entry.files[series])


def is_record(path: Path) -> bool:
    """Whether a folder is a record, by the name of its index."""
    try:
        return path.is_dir() and (path / INDEX).is_file()
    except (OSError, ValueError):
        return False


def read_record(folder: Path, budget: Budget | None = None) -> Record:
    """What the index says. Raises BncheckError, about the folder, for one that cannot be read."""
    try:
        return _read(folder, budget or Budget())
    except BncheckError as error:
        raise error.about(str(folder)) from None


def _read(folder: Path, budget: Budget) -> Record:
    source = Source.open(referred(folder, INDEX), budget)
    if source.size > MAX_INDEX_BYTES:
        raise BncheckError(
            f"has an index of {source.size:,} bytes (limit MAX_INDEX_BYTES)",
            "record less often, or with keep=",
        )
    found = _Lines()
    for number, line in enumerate(_complete(source.head(source.size)), 1):
        try:
            told = parse(line, budget)
            found.add(told)
        except (AttributeError, ValueError, TypeError, KeyError, RecursionError):
            raise BncheckError(
                f"has an index whose line {number} cannot be read",
                "delete that line of index.jsonl" if found.entries else _WITHOUT,
            ) from None
        found.check()
    if not found.runs and _has_snapshots(folder):  # a disk that was full, or cut off
        raise BncheckError("has snapshots and an index without a whole line", _WITHOUT)
    return Record(
        folder, tuple(found.entries), tuple(found.findings), max(found.runs, 1),
        max(found.trainings, 1),
    )  # fmt: skip


def _has_snapshots(folder: Path) -> bool:
    try:
        return any((folder / SNAPSHOTS).iterdir())
    except OSError:
        return False


def _complete(text: bytes) -> list[bytes]:
    """The lines but for an unfinished last one."""
    return [line for line in text.split(b"\n")[:-1] if line.strip()]


@dataclass(slots=True)
class _Lines:
    """What the lines so far add up to."""

    entries: list[Entry] = field(default_factory=list)
    findings: list[Recorded] = field(default_factory=list)
    runs: int = 0
    trainings: int = 0

    def add(self, told: Any) -> None:
        """One more line; ValueError and its like for one that says nothing."""
        kind = told["kind"]
        if kind == RUN:
            self._begin(told)
        elif kind == SNAPSHOT:
            entry = _entry(told)
            while self.entries and self.entries[-1].step >= entry.step:
                self.entries.pop()  # taken again after a resume from an earlier checkpoint
            self.entries.append(entry)
        elif kind == FINDING:
            self.findings.append(_recorded(told))

    def check(self) -> None:
        """Raise BncheckError where they add up to more than a training says."""
        for held, what, most, limit in (
            (self.entries, "snapshots", MAX_RECORDED, "MAX_RECORDED"),
            (self.findings, "findings", MAX_FINDINGS, "MAX_FINDINGS"),
        ):
            if len(held) > most:
                raise BncheckError(
                    f"has more than {most:,} {what} (limit {limit})",
                    "record less often, or with keep=",
                )

    def _begin(self, told: Any) -> None:
        if told["schema"] != SCHEMA:
            raise BncheckError(
                f"is a record of another kind ({str(told['schema'])[:40]!r})", "update bncheck"
            )
        self.runs += 1
        if not told.get("continues"):
            self.trainings += 1
            self.entries, self.findings = [], []


def _entry(told: Any) -> Entry:
    files = {str(name): str(file) for name, file in told["files"].items()}
    step = whole(told["step"])
    if step is None or "" not in files:
        raise ValueError
    return Entry(
        files,
        step,
        whole(told.get("epoch")),
        as_number(told.get("lr")),
        as_number(told.get("loss")),
        as_number(told.get("time")),
        whole(told.get("run")) or 0,
        whole(told.get("counter")),
    )


def _recorded(told: Any) -> Recorded:
    layer, step = told.get("layer"), whole(told["step"])
    if step is None or not (layer is None or isinstance(layer, str)):
        raise ValueError
    series, severity = (str(told.get(key) or "") for key in ("series", "severity"))
    return Recorded(str(told["rule"]), layer, step, series, severity)


def newest_files(record: Record) -> Iterator[tuple[str, Path]]:
    """The newest file of each series, with its name."""
    newest = {name: entry for entry in record.entries for name in entry.files}
    for name in ("", *record.series):
        if name in newest:
            yield name, record.file(newest[name], name)
