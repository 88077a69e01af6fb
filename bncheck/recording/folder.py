"""The folder that a record is: docs/recording.md describes it.

A snapshot is written beside its place and renamed, then a line in the index says that it is there:
whatever kills the process, what the index names is whole. What it does not name is swept away when
the recording goes on.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bncheck.core.errors import BncheckError
from bncheck.reading.record import (
    FINDING,
    INDEX,
    RUN,
    SCHEMA,
    SNAPSHOT,
    SNAPSHOTS,
    Record,
    is_record,
    read_record,
)
from bncheck.reading.record_snapshot import METADATA, whole
from bncheck.recording.holding import LOCK, Hold
from bncheck.recording.packing import Packer
from bncheck.recording.thinning import superfluous
from bncheck.writing.atomic import explained, usual_mode
from bncheck.writing.leftovers import prefix, sweep

if TYPE_CHECKING:
    from bncheck.core.findings import Finding
    from bncheck.reading.tensors import Array

_ENDING: Final = ".safetensors"
_OWN: Final = re.compile(rf"{SNAPSHOTS}/\d+-\d{{8,}}[.\w-]*{re.escape(_ENDING)}")
#: Six digits are enough but for a time.
_LARGE: Final = 1e6
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_AS_IS: Final = frozenset((str, int, bool))
#: Lines of findings that an index keeps when it is written anew.
_FINDINGS: Final = 1000

Line = dict[str, Any]


@dataclass
class RecordFolder:
    """Writes one record. Every method raises BncheckError where the disk does not let it."""

    path: Path
    keep: int | None
    lines: list[Line] = field(default_factory=list)
    run: int = 0
    _packer: Packer = field(default_factory=Packer)
    _hold: Hold | None = None

    @classmethod
    def open(cls, path: Path, keep: int | None) -> RecordFolder:
        """The folder, made where there is none; a record in it is gone on with."""
        folder = cls(path, keep)
        with explained(path):
            _refuse_links(path)
            (path / SNAPSHOTS).mkdir(parents=True, exist_ok=True)
            folder._hold = Hold.of(path)
            if is_record(path):
                folder._resume()
            sweep(path)
            sweep(path / SNAPSHOTS)
        return folder

    def before(self) -> Record | None:
        """What earlier starts of the training have recorded."""
        return read_record(self.path) if self.run else None

    def begin(self, continues: bool, **told: object) -> None:
        """A start of the training; unless it continues another, what was there is another's."""
        self._check()
        if not continues:
            self.lines = [line for line in self.lines if line["kind"] == RUN]
        line = {"kind": RUN, "schema": SCHEMA, "run": self.run, "continues": continues, **told}
        self._append(line)

    def add(self, files: Mapping[str, tuple[Mapping[str, Array], Line]], line: Line) -> None:
        """A snapshot of each model, then its line in the index."""
        self._check()
        names = {}
        for series, (tensors, metadata) in files.items():
            names[series] = _file_name(self.run, line["step"], series)
            self._write(names[series], tensors, metadata)
        last = next((old for old in reversed(self.lines) if old["kind"] == SNAPSHOT), None)
        if last is not None and last["step"] >= line["step"]:  # taken again
            self._leave_out(
                {old["step"] for old in self._snapshots() if old["step"] >= line["step"]}
            )
        self._append({"kind": SNAPSHOT, **line, "run": self.run, "files": names})
        self._thin()

    def find(self, finding: Finding, step: int, series: str) -> None:
        """A line for a finding."""
        self._check()
        told = finding.to_dict()
        del told["fingerprint"], told["fix"]
        more = {"series": series} if series else {}
        self._append({"kind": FINDING, "step": step, **more, **told})

    def _check(self) -> None:
        if self._hold is not None:
            self._hold.check()

    def _resume(self) -> None:
        """Cut an unfinished line off, and drop the snapshots that no line names."""
        index = self.path / INDEX
        read_record(self.path)  # a record of something else, or one too large, is refused here
        text = index.read_bytes()
        complete = text[: text.rfind(b"\n") + 1]
        self.lines = [json.loads(line) for line in complete.splitlines() if line.strip()]
        if complete != text:
            os.truncate(index, len(complete))
        self.run = 1 + max((whole(line.get("run")) or 0 for line in self.lines), default=-1)
        named = {name for line in self._snapshots() for name in line["files"].values()}
        for file in (self.path / SNAPSHOTS).iterdir():
            name = f"{SNAPSHOTS}/{file.name}"
            if name not in named and _OWN.fullmatch(name):
                file.unlink()

    def close(self) -> None:
        """Let another recorder write."""
        if self._hold is not None:
            self._hold.let_go()

    def _append(self, line: Line) -> None:
        self.lines.append(line)
        data = (_json(line) + "\n").encode()
        with explained(self.path), open(self.path / INDEX, "ab", buffering=0) as file:
            start = file.tell()
            try:
                _whole(file.write(data), data)
            except OSError:
                file.truncate(start)
                raise

    def _write(self, name: str, tensors: Mapping[str, Array], metadata: Line) -> None:
        """Write a file whole or not at all, without waiting for the disk: see the module."""
        folder = os.path.join(self.path, SNAPSHOTS)
        temporary = os.path.join(folder, f"{prefix('snapshot')}{'x' * 8}{_ENDING}")
        data = self._packer.packed(tensors, {METADATA: _json(metadata)})
        with explained(self.path):
            try:
                with open(temporary, "wb", buffering=0) as file:
                    _whole(file.write(data), data)
                os.replace(temporary, os.path.join(self.path, name))
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise

    def _snapshots(self) -> list[Line]:
        return [line for line in self.lines if line["kind"] == SNAPSHOT]

    def _leave_out(self, steps: Collection[int]) -> None:
        self.lines = [
            line for line in self.lines if line["kind"] != SNAPSHOT or line["step"] not in steps
        ]

    def _thin(self) -> None:
        """Drop what is too much: first from the index, then the files."""
        if self.keep is None or len(self.lines) <= self.keep:
            return
        snapshots = self._snapshots()
        if len(snapshots) <= self.keep:
            return
        findings = [line for line in self.lines if line["kind"] == FINDING]
        found = {line["step"] for line in findings}
        gone = superfluous([line["step"] for line in snapshots], self.keep, found)
        self._leave_out(gone)
        old = {id(line) for line in findings[:-_FINDINGS]}
        self.lines = [line for line in self.lines if id(line) not in old]
        self._rewrite()
        names = [n for line in snapshots if line["step"] in gone for n in line["files"].values()]
        for name in names:
            if _OWN.fullmatch(name):  # an index that somebody else wrote may name any file
                with contextlib.suppress(OSError):
                    (self.path / name).unlink()

    def _rewrite(self) -> None:
        index = self.path / INDEX
        temporary = self.path / f"{prefix(index.stem)}{'x' * 8}.jsonl"
        with explained(self.path):
            temporary.write_text("".join(_json(line) + "\n" for line in self.lines), "utf-8")
            os.chmod(temporary, usual_mode(index))
            os.replace(temporary, index)


def _refuse_links(path: Path) -> None:
    """What is written into a stranger's record stays there, and no pipe holds the training up."""
    for place, what in (
        (path / SNAPSHOTS, "folder"),
        (path / INDEX, "file"),
        (path / LOCK, "file"),
    ):
        fits = place.is_dir() if what == "folder" else place.is_file()
        if place.is_symlink() or (place.exists() and not fits):
            raise BncheckError(
                f"has {place.name} as something else than a {what}", "record elsewhere", str(path)
            )


def _file_name(run: int, step: int, series: str) -> str:
    """0-00000100.safetensors, or 0-00000100.ema.safetensors."""
    more = f".{_safe(series)}" if series else ""
    return f"{SNAPSHOTS}/{run}-{step:08}{more}{_ENDING}"


def _safe(word: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in word)


def _whole(written: int, data: bytes) -> None:
    """A disk that is full takes the beginning."""
    if written != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _json(value: Mapping[str, object]) -> str:
    """Strict JSON: what is not finite is left out, as null."""
    return _ENCODER.encode(_plain(value))


def _plain(value: Any) -> Any:
    if value is None or type(value) in _AS_IS:
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return round(value, 3) if abs(value) > _LARGE else float(f"{value:.6g}")
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
