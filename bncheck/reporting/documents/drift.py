"""`bncheck drift`: what happened to a series in words, then layers x snapshots."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from bncheck.core.findings import Severity
from bncheck.core.words import count
from bncheck.drifting.report import DriftReport
from bncheck.reading.record_snapshot import BATCH_PART
from bncheck.reporting import heat
from bncheck.reporting.document import Detail, Document, Fact, Table, standing_of
from bncheck.reporting.documents.movement import figures, settled_at, variance_sparks
from bncheck.reporting.prose import W2_IS
from bncheck.reporting.visible import layer_name, visible
from bncheck.series.movement import Basis, Movement

#: No more snapshots than this in a table.
_COLUMNS: Final = 120
_NAMED: Final = 4
_TRAILS: Final = 0.05  # a predicted lag worth a sentence


def document(report: DriftReport, _path: str = "") -> Document:
    """One document for the whole series."""
    movement = report.movement
    moving = Severity.INFO if report.verdict == "moving" else None
    return Document(
        "drift",
        _what(movement),
        report.verdict,
        standing_of(report.findings) or moving,
        tuple(map(Fact, sentences(report))),
        report.findings,
        tuple(_tables(report)),
        tuple(figures(movement)) if movement.layers else (),
        notes=report.notes,
        path=str(movement.snapshots[-1].path),
        silenced=report.silenced,
    )


def _what(movement: Movement) -> str:
    """11 snapshots, 000 to 499; 25 layers from the running statistics."""
    snapshots = movement.snapshots
    labels = f"{snapshots[0].label} to {snapshots[-1].label}"
    seen = f", measured on {movement.samples:,} samples" if movement.samples else ""
    batches = ", from the batches of recorded steps" if movement.key == BATCH_PART else ""
    how = seen or batches or ", from the files' running statistics"
    return (
        f"{count(len(snapshots), 'snapshot')}, {visible(labels, None)}; "
        f"{count(len(movement.layers), 'layer')}{how}"
    )


def sentences(report: DriftReport) -> list[str]:
    """When the layers settled, which still move, how noise and lag stand, who died."""
    movement = report.movement
    lines = [_settled(movement), *_lag(movement), *_dead(movement), *_still(movement)]
    if movement.lost:
        names = _names([movement.layers[index] for index in movement.lost])
        lines.append(f"without usable statistics at the end: {names}; `bncheck inspect` says why")
    if movement.source is Basis.DATA and movement.noise:
        lines.append(f"sampling noise of W2 {movement.noise:.3f} has been subtracted")
    return [line for line in lines if line]


def _settled(movement: Movement) -> str:
    labels = [snapshot.label for snapshot in movement.snapshots]
    places = [place for place in movement.settled if place is not None]
    if len(labels) < 2 or not places:
        return ""
    limit = f"W2 to the last snapshot below {movement.thresholds.w2_warning:.2f}"
    first, last = min(places), max(places)
    if movement.moving:
        late = [movement.layers[index] for index in movement.moving]
        text = f"still moving at the end: {_names(late)}"
        rest = [place for place in places if place < len(labels) - 1]
        if rest:
            text += f"; the others settled by {visible(labels[max(rest)])}"
        return f"{text} ({limit})"
    if first == last:
        where = "from the start" if first == 0 else f"at {visible(labels[first])}"
        return f"all layers settled {where} ({limit})"
    early = [n for n, place in zip(movement.layers, movement.settled, strict=True) if place == last]
    return (
        f"the layers settled between {visible(labels[first])} and {visible(labels[last])}, last "
        f"{_names(early)} ({limit})"
    )


def _lag(movement: Movement) -> list[str]:
    """How far the running statistics are behind the weights: measured, or from their own speed."""
    if movement.key == BATCH_PART:
        return []
    if movement.source is Basis.DATA:
        lag, start = (
            movement.lag,
            "the running statistics are up to W2 {:.2f} from the measured ones",
        )
    else:
        lag, start = movement.predicted_lag, "running averages trail the weights by up to W2 {:.2f}"
    worst = np.nan_to_num(lag, nan=-1.0)
    if worst.size == 0 or worst.max() < (0.0 if movement.source is Basis.DATA else _TRAILS):
        return []
    row, column = np.unravel_index(int(worst.argmax()), worst.shape)
    label = visible(movement.snapshots[int(column)].label)
    name = layer_name(movement.layers[int(row)])
    end = max(0.0, float(worst[:, -1].max()))
    told = "" if movement.source is Basis.DATA else ", judged by how fast they move"
    return [f"{start.format(worst.max())} ({name} at {label}), {end:.2f} at the end{told}"]


def _dead(movement: Movement) -> list[str]:
    total = movement.dead.sum(axis=0)
    if not total.any():
        return []
    grown = np.flatnonzero(np.diff(total, prepend=total[:1]) > 0)
    since = f", more since {visible(movement.snapshots[grown[-1]].label)}" if grown.size else ""
    return [f"channels that never vary: {total[0]} at the start, {total[-1]} at the end{since}"]


def _still(movement: Movement) -> list[str]:
    """Layers in which nothing at all moved: frozen."""
    snapshots = movement.snapshots
    frozen = []
    for name in movement.layers:
        states = [s.states[name] for s in snapshots if name in s.states]
        if len(states) > 1 and len({(s.parameters, s.buffers) for s in states}) == 1:
            frozen.append(name)
    if not frozen or len(snapshots) < 2:
        return []
    return [f"frozen throughout, parameters and statistics: {_names(frozen)}"]


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(layer_name(name) for name in names[:_NAMED])
    more = len(names) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def _tables(report: DriftReport) -> Iterator[Table]:
    """All numbers; text has them in its picture."""
    movement = report.movement
    labels = [snapshot.label for snapshot in movement.snapshots]
    far = movement.grid.w2
    names = [name or "(root)" for name in movement.layers]
    columns = ("layer", "settled at", "W2 furthest", "W2 at first", "variance")
    rows = zip(
        names,
        settled_at(movement),
        [_number(np.max(row[np.isfinite(row)], initial=-math.inf)) for row in far],
        [_number(row[0]) for row in far],
        variance_sparks(movement),
        strict=True,
    )
    yield Table("Layers", columns, tuple(rows), columns[2:4], W2_IS, detail=Detail.NEVER)
    places = heat.chosen(len(labels), _COLUMNS)
    yield Table(
        "W2 to the reference",
        ("layer", *(labels[place] for place in places)),
        tuple(
            (name, *(_number(row[place]) for place in places))
            for name, row in zip(names, far, strict=True)
        ),
        detail=Detail.NEVER,
    )
    files = tuple(
        (s.label, "-" if s.position is None else f"{s.position:,}", str(s.path))
        for s in movement.snapshots
    )
    yield Table("Snapshots", ("label", "step", "file"), files, ("step",), detail=Detail.NEVER)
    yield Table("Settings", ("setting", "value"), report.settings, detail=Detail.NEVER)


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"
