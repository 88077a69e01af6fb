"""`drift`: snapshots of one training in, one report out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.core.thresholds import DEFAULT, Thresholds
from bncheck.core.words import count
from bncheck.drifting.lost import lost_statistics
from bncheck.drifting.recorded import with_recorded
from bncheck.drifting.report import DriftReport
from bncheck.drifting.unseen import unseen_jumps
from bncheck.layers.norm_layer import Assumptions
from bncheck.reading.remote import place_of
from bncheck.rules.choosing import choose_rules, switched_off
from bncheck.rules.registry import SERIES_RULES
from bncheck.rules.series.bn304_late_shift import late_shift
from bncheck.series.distance import Statistics, histogram_distance, stacked
from bncheck.series.long import Tell
from bncheck.series.movement import Basis, Movement, Reference, history_of, statistics_in
from bncheck.series.series import Series, read_series
from bncheck.series.snapshot import Snapshot, read_snapshot

if TYPE_CHECKING:
    from bncheck.series.measuring import Measured, Meter
    from bncheck.subject.setup import Measuring

KINDS = ("last", "first", "previous")


@dataclass(frozen=True, slots=True)
class DriftOptions:
    """What a user can set. `reference` is first, last, previous or a file; `every_layer` adds the
    outputs of convolutions, linear layers and activations, which takes a model and data. `last` is
    the snapshot that comes last, whatever the files and `order` say. `read` and `measured` are told
    how many snapshots are."""

    reference: str = "last"
    order: str = "auto"
    every_layer: bool = False
    shape: bool = False
    key: str | None = None
    eps: float | None = None
    select: Sequence[str] = ()
    ignore: Sequence[str] = ()
    thresholds: Thresholds = DEFAULT
    read: Tell = field(default=lambda done, total: None)
    measured: Tell = field(default=lambda done, total: None)
    last: Path | None = None


def drift(
    paths: Sequence[str | Path], options: DriftOptions, measuring: Measuring | None = None
) -> DriftReport:
    """Compare the snapshots, with `measuring` on data. Raises BncheckError.

    A snapshot that cannot be read is an error in the report, unless fewer than two are left.
    """
    chosen = choose_rules(options.select, options.ignore)
    rules = choose_rules(options.select, ())
    if measuring is None and (options.every_layer or options.shape):
        raise BncheckError(
            "activations can be measured only with a model and data",
            "add --model and --data, or leave --layers all and --shape out",
        )
    given = Assumptions(options.eps)
    files = [place_of(path) for path in dict.fromkeys(paths)]
    series = read_series(
        files, options.key, given, options.read, options.order, options.last, options.reference
    )
    _refuse_too_few(series, len(files), measuring is not None)
    _refuse_unrelated(series)
    reference = _reference(options.reference, series)
    if measuring is None:
        movement = _of_buffers(series, reference, options)
    else:
        movement = _of_data(series, reference, options, measuring)
    with np.errstate(invalid="ignore"):
        findings = list(lost_statistics(series, series.key, given, rules))
        findings += [f for r in SERIES_RULES if r in rules for f in r.check(movement)]
        if measuring is not None and late_shift in rules and series.names:
            own = _of_buffers(series, Reference("previous", None), options)
            findings += unseen_jumps(own, movement, findings)
    findings = list(with_recorded(findings, series.recorded, rules))
    made = tuple(finding for finding in findings if chosen.made(finding))
    ignored = tuple(switched_off(findings, options.select, options.ignore))
    return DriftReport(movement, made, _settings(options, movement, measuring), ignored)


def _refuse_too_few(series: Series, given: int, with_data: bool) -> None:
    if len(series.snapshots) < 2 and not series.ranks:
        if series.errors:
            raise series.errors[0]
        raise BncheckError(
            f"a series needs two snapshots, and there is {'one' if given == 1 else 'none'}",
            "give at least two snapshots of one training run",
        )
    if not series.names and not with_data:
        raise BncheckError(
            "holds no normalisation layer with running statistics, and neither do the others",
            "add --model, --data and --layers all to measure the other layers",
            str(series.snapshots[0].path),
        )


def _refuse_unrelated(series: Series) -> None:
    """A folder of models, rather than snapshots of one training."""
    have = [frozenset(s.states) for s in series.snapshots if s.states]
    if len(have) > 1 and len(frozenset.union(*have)) == sum(map(len, have)):
        raise BncheckError(
            f"{count(len(have), 'snapshot')} of other models: no layer is in two of them",
            "give snapshots of one training; `bncheck inspect` looks at each by itself",
        )


def _reference(word: str, series: Series) -> Reference:
    """first, last and previous are words; anything else is a file."""
    if word not in KINDS:
        return Reference("file", place_of(word))
    # A training that ended in NaN is compared with the last snapshot that can be.
    usable = [s for s in series.snapshots if s.usable]
    last = (usable or series.snapshots)[-1]
    ends = {"first": series.snapshots[0].path, "last": last.path}
    return Reference(word, ends.get(word))


def _of_buffers(series: Series, reference: Reference, options: DriftOptions) -> Movement:
    history = history_of(series)
    held: dict[str, Statistics] = {}
    if reference.path is not None:
        base = _snapshot_at(reference.path, series, options)
        held = {name: s for name in history if (s := statistics_in(base, name)) is not None}
        if not held:
            raise BncheckError(
                "has no layer with usable statistics to compare the others with",
                "`bncheck inspect` says what is wrong with it; leave it out or take another "
                "--reference",
                str(reference.path),
            )
        _refuse_other_width(held, history, reference.path, series)
    return Movement(
        series,
        tuple(history),
        history,
        reference,
        held,
        Basis.BUFFERS,
        options.thresholds,
        key=series.key,
    )


def _snapshot_at(path: Path, series: Series, options: DriftOptions) -> Snapshot:
    if series.long is not None and series.long.base is not None:
        return series.long.base
    known = next((snapshot for snapshot in series.snapshots if snapshot.path == path), None)
    if known is not None:
        return known
    other = read_snapshot(path, series.key, Assumptions(options.eps))
    return other.named_like(series.snapshots[-1])


def _refuse_other_width(
    held: Mapping[str, Statistics], history: Mapping[str, Statistics], path: Path, series: Series
) -> None:
    for name, base in held.items():
        width = history[name].mean.shape[-1]
        if base.mean.size != width:
            raise BncheckError(
                f"layer {name} has {base.mean.size} channels, and {width} in "
                f"{series.snapshots[0].path}",
                "compare snapshots of one architecture",
                str(path),
            )


def _of_data(
    series: Series, reference: Reference, options: DriftOptions, measuring: Measuring
) -> Movement:
    from bncheck.series.measuring import Meter

    for snapshot in series.snapshots:
        if snapshot.training is not None:
            raise BncheckError(
                "is of a record, which holds normalisation layers and not the weights that a model "
                "needs",
                "leave --data out, or give checkpoints of the same training",
                str(snapshot.path),
            )
    meter = Meter(measuring, series.key, options.every_layer)
    frame = reference.path or series.snapshots[-1].path
    base = {name: m.statistics for name, m in meter.measure(frame).items()}
    coordinates = base if options.shape else None
    shapes = _Shapes(base, reference.path is None)
    if coordinates is not None and reference.path is not None:
        shapes.hold(meter.measure(frame, coordinates))
    parts: dict[str, list[Statistics | None]] = {name: [] for name in base}
    for number, snapshot in enumerate(series.snapshots):
        seen = _measured(meter, snapshot, coordinates)
        for name, kept in parts.items():
            kept.append(seen[name].statistics if name in seen else None)
        shapes.add(seen)
        options.measured(number + 1, len(series.snapshots))
    history = {name: stacked(kept) for name, kept in parts.items() if any(kept)}
    named = meter.in_file(history)
    return Movement(
        series, tuple(named), named, reference,
        {} if reference.path is None else meter.in_file(base),
        Basis.DATA, options.thresholds, key=series.key, samples=meter.samples,
        w1=shapes.w1(tuple(history)) if options.shape else None,
        outlines=meter.in_file(shapes.outlines) if options.shape else None,
    )  # fmt: skip


def _measured(
    meter: Meter, snapshot: Snapshot, coordinates: Mapping[str, Statistics] | None
) -> Mapping[str, Measured]:
    """Nothing of a snapshot that has lost statistics (BN102) and cannot be measured either."""
    try:
        return meter.measure(snapshot.path, coordinates)
    except BncheckError:
        if all(state.usable for state in snapshot.states.values()):
            raise
        return {}


class _Shapes:
    """Histograms snapshot by snapshot: only the reference's are kept by channel.

    All are counted in the coordinates of one snapshot. Against the snapshot before, a distance is
    in that one's units: W1 scales with sigma.
    """

    def __init__(self, frame: Mapping[str, Statistics], to_previous: bool) -> None:
        self._frame = frame
        self._to_previous = to_previous
        self._held: Mapping[str, Measured] = {}
        self._rows: dict[str, list[float]] = {name: [] for name in frame}
        self.outlines: dict[str, Any] = {name: [] for name in frame}

    def hold(self, measured: Mapping[str, Measured]) -> None:
        self._held = measured

    def add(self, seen: Mapping[str, Measured]) -> None:
        from bncheck.measuring.histogram import BINS, LIMIT

        for name, row in self._rows.items():
            found, base = seen.get(name), self._held.get(name)
            value = float("nan")
            if found is not None and found.counts is not None:
                self.outlines[name].append(found.counts.sum(axis=0))
                if base is not None and base.counts is not None:
                    w1 = histogram_distance(base.counts, found.counts, 2 * LIMIT / BINS)
                    w1 = w1 * self._frame[name].sigma / base.statistics.sigma
                    value = float(np.sqrt(np.mean(w1**2)))
            row.append(value)
        if self._to_previous:
            self._held = seen

    def w1(self, layers: Sequence[str]) -> Any:
        """Layers x snapshots: the RMS over channels."""
        return np.array([self._rows[name] for name in layers])


def _settings(
    options: DriftOptions, movement: Movement, measuring: Measuring | None
) -> tuple[tuple[str, str], ...]:
    """What the report was made with, for its reader."""
    path = movement.reference.path
    pairs = [
        ("reference", movement.reference.kind + (f" ({path})" if path else "")),
        ("order", movement.series.order),
        ("source", movement.source.value),
        ("layers", "all" if options.every_layer else "norm"),
        ("key", options.key or ""),
        ("eps", "" if options.eps is None else f"{options.eps:g}"),
    ]
    if measuring is not None:
        name = measuring.model if isinstance(measuring.model, str) else ""
        data = measuring.data if isinstance(measuring.data, (str, Path)) else ""
        pairs += [("model", name), ("data", str(data)), ("samples", f"{movement.samples:,}")]
        pairs += [("device", measuring.device), ("reference noise", f"W2 {movement.noise:.3f}")]
    return tuple((key, value) for key, value in pairs if value)
