"""`bncheck drift` in every format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.drifting.report import DriftReport
from bncheck.reporting import heat
from bncheck.reporting.document import Document, Table, standing_of
from bncheck.reporting.figures import Band, Distribution, Distributions, Figure, Heatmap
from bncheck.series.distance import distance
from bncheck.series.movement import Movement

if TYPE_CHECKING:
    from rich.console import Console

    Floats = heat.Floats

#: A page holds no more snapshots than this (each the largest of a few), and no more numbers in its
#: distributions; those of the layers that matter first are kept.
_COLUMNS: Final = 120
_NUMBERS: Final = 60_000
_CHANNELS: Final = 4


@dataclass(frozen=True)
class DriftView:
    """One series of snapshots."""

    report: DriftReport

    @property
    def errors(self) -> Sequence[BncheckError]:
        """The snapshots that could not be read."""
        return self.report.errors

    def show(self, console: Console, *, verbose: bool) -> None:
        """Print what happened in words, then the heatmap."""
        from bncheck.reporting.text.drift import show

        show(console, self.report, verbose)

    def data(self) -> dict[str, object]:
        """Schema bncheck.drift/1."""
        return self.report.to_dict()

    def documents(self) -> list[Document]:
        """One document for the whole series."""
        from bncheck.reporting.text.drift import sentences, what

        report = self.report
        movement = report.movement
        return [
            Document(
                "drift",
                what(report),
                report.verdict,
                standing_of(report.findings),
                (*sentences(report), *report.notes),
                report.findings,
                tuple(_tables(report)),
                tuple(_figures(movement)) if movement.layers else (),
                str(movement.snapshots[-1].path),
            )
        ]


def _tables(report: DriftReport) -> list[Table]:
    movement = report.movement
    labels = [snapshot.label for snapshot in movement.snapshots]
    far = movement.grid.w2
    last = len(labels) - 1
    rows = []
    for index, (name, place) in enumerate(zip(movement.layers, movement.settled, strict=True)):
        finite = far[index][np.isfinite(far[index])]
        settled = "-" if place is None else labels[place]
        if last and place == last:
            settled = "still moving"
        furthest = f"{finite.max():.3f}" if finite.size else "-"
        rows.append((name or "(root)", settled, furthest, _number(far[index][0])))
    layers = Table("Layers", ("layer", "settled at", "W2 furthest", "W2 at first"), tuple(rows))
    places = heat.chosen(len(labels), _COLUMNS)
    numbers = Table(
        "W2 to the reference",
        ("layer", *(labels[place] for place in places)),
        tuple(
            (name or "(root)", *(_number(far[index][place]) for place in places))
            for index, name in enumerate(movement.layers)
        ),
    )
    files = Table(
        "Snapshots",
        ("label", "step", "file"),
        tuple(
            (s.label, "-" if s.position is None else f"{s.position:,}", str(s.path))
            for s in movement.snapshots
        ),
    )
    return [layers, numbers, files, Table("Settings", ("setting", "value"), report.settings)]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _figures(movement: Movement) -> list[Figure]:
    columns = min(len(movement.snapshots), _COLUMNS)
    places = heat.chosen(len(movement.snapshots), columns)
    labels = tuple(movement.snapshots[place].label for place in places)
    rows = tuple(name or "(root)" for name in movement.layers)
    grid, limits = movement.grid, movement.thresholds
    binned = len(movement.snapshots) > columns
    note = " Each column is the largest of several snapshots." if binned else ""
    against = {
        "last": "the last snapshot", "first": "the first snapshot",
        "previous": "the snapshot before", "file": f"{movement.reference.path}",
    }[movement.reference.kind]  # fmt: skip
    figures: list[Figure] = [
        Heatmap(
            "How far each layer was from the reference",
            f"W2 to {against}, in standard deviations of the reference.{note}",
            rows, labels, _cells(heat.binned(grid.w2, columns)), "W2", heat.LEVELS[0],
            heat.LEVELS[-1], marks=((limits.w2_warning, "warning"), (limits.w2_error, "error")),
        )
    ]  # fmt: skip
    signed = (
        ("Where the means moved", "Mean shift", grid.mean_shift, "above"),
        ("How the variances changed", "ln of the variance ratio", grid.log_variance_ratio, "wider"),
    )
    for title, unit, values, word in signed:
        taken = values[:, places]
        size = np.abs(taken[np.isfinite(taken)])
        high = max(0.2, float(np.quantile(size, 0.98))) if size.size else 1.0
        caption = f"{unit} against {against}, averaged over channels; positive is {word}."
        figures.append(
            Heatmap(title, caption, rows, labels, _cells(taken), unit, 0.0, high, signed=True)
        )
    if movement.w1 is not None:
        figures.append(
            Heatmap(
                "How the shapes changed",
                f"W1 between histograms and those of {against}.{note}",
                rows, labels, _cells(heat.binned(movement.w1, columns)), "W1", heat.LEVELS[0],
                heat.LEVELS[-1],
            )
        )  # fmt: skip
    figures.append(_distributions(movement, places, labels))
    return figures


def _cells(values: Floats) -> tuple[tuple[float | None, ...], ...]:
    """Four digits are more than a colour shows."""
    return tuple(tuple(_rounded(value) for value in row) for row in values.tolist())


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _distributions(
    movement: Movement, places: Sequence[int], labels: tuple[str, ...]
) -> Distributions:
    """As many layers as a page has room for, the important ones first."""
    size = len(places) * (2 * _CHANNELS + (64 if movement.outlines else 0))
    chosen = movement.important(max(1, _NUMBERS // max(size, 1)))
    layers = tuple(_distribution(movement, movement.layers[i], places) for i in chosen)
    caption = (
        f"Mean and standard deviation of the {_CHANNELS} channels that moved most between the "
        "first snapshot and the last."
    )
    return Distributions("One layer over time", caption, labels, layers)


def _distribution(movement: Movement, name: str, places: Sequence[int]) -> Distribution:
    found = movement.history[name]
    moved = np.nan_to_num(distance(found.at(0), found.at(-1)).channels)
    channels = sorted(int(c) for c in np.argsort(-moved, kind="stable")[:_CHANNELS])
    sd = np.sqrt(found.var.astype(np.float64))
    bands = tuple(
        Band(
            f"channel {channel}",
            tuple(_rounded(float(found.mean[place, channel])) for place in places),
            tuple(_rounded(float(sd[place, channel])) for place in places),
        )
        for channel in channels
    )
    outline = movement.outlines.get(name) if movement.outlines else None
    if outline is None or len(outline) != len(movement.snapshots):
        return Distribution(name or "(root)", bands)
    counts = np.array(outline)[list(places)].T
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    cells = tuple(tuple(float(f"{v:.3g}") for v in row) for row in shares.tolist())
    return Distribution(name or "(root)", bands, cells, -4.0, 4.0)
