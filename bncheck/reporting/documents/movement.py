"""The figures of `bncheck drift`: heatmaps of layers x snapshots, and distributions over time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from bncheck.core.words import count
from bncheck.reporting import heat
from bncheck.reporting.figures import (
    Band,
    Distribution,
    Distributions,
    Figure,
    Heatmap,
    Ranking,
)
from bncheck.series.distance import distance
from bncheck.series.movement import Movement

#: Distributions hold no more snapshots than this, and no more numbers; those of the layers that
#: matter first are kept.
_COLUMNS: Final = 120
_NUMBERS: Final = 60_000
_CHANNELS: Final = 4
_SPARK: Final = 12


def figures(movement: Movement) -> Iterator[Figure]:
    """How far the layers were, where means and variances went, and single layers over time."""
    yield _distances(movement)
    grid = movement.grid
    yield _signed(movement, "Where the means moved", "Mean shift", grid.mean_shift, "above")
    yield _signed(
        movement, "How the variances changed", "ln of the variance ratio",
        grid.log_variance_ratio, "wider",
    )  # fmt: skip
    if movement.w1 is not None:
        against = _against(movement)
        caption = f"W1 between histograms and those of {against}."
        yield Heatmap(
            "How the shapes changed", caption, *_axes(movement), _cells(movement.w1), "W1",
            heat.LEVELS[0], heat.LEVELS[-1], against,
        )  # fmt: skip
    yield _distributions(movement)


def _axes(movement: Movement) -> tuple[tuple[str, ...], tuple[str, ...]]:
    rows = tuple(name or "(root)" for name in movement.layers)
    return rows, tuple(snapshot.label for snapshot in movement.snapshots)


def _against(movement: Movement) -> str:
    return {
        "last": "the last snapshot", "first": "the first snapshot",
        "previous": "the snapshot before", "file": f"{movement.reference.path}",
    }[movement.reference.kind]  # fmt: skip


def _distances(movement: Movement) -> Heatmap:
    limits, against = movement.thresholds, _against(movement)
    ranking = Ranking(
        tuple(movement.important(len(movement.layers))),
        "settled last or moved furthest",
        "settled earlier or moved less",
    )
    return Heatmap(
        "How far each layer was from the reference",
        f"W2 to {against}, in standard deviations of the reference.",
        *_axes(movement),
        _cells(movement.grid.w2), "W2", heat.LEVELS[0], heat.LEVELS[-1], against,
        marks=((limits.w2_warning, "warning"), (limits.w2_error, "error")),
        beside=(
            ("furthest", tuple(map(_furthest, movement.grid.w2))),
            ("variance", variance_sparks(movement)),
            ("settled at", settled_at(movement)),
        ),
        ranking=ranking,
    )  # fmt: skip


def _signed(movement: Movement, title: str, unit: str, values: heat.Floats, word: str) -> Heatmap:
    size = np.abs(values[np.isfinite(values)])
    most = max(0.2, float(np.quantile(size, 0.98))) if size.size else 1.0
    against = _against(movement)
    caption = f"{unit} against {against}, averaged over channels; positive is {word}."
    return Heatmap(
        title, caption, *_axes(movement), _cells(values), unit, 0.0, most, against, signed=True
    )


def settled_at(movement: Movement) -> tuple[str, ...]:
    """The label from which on each layer stayed near the last snapshot."""
    last = len(movement.snapshots) - 1
    labels = [snapshot.label for snapshot in movement.snapshots]
    if last:
        labels[last] = "still moving"
    return tuple("-" if place is None else labels[place] for place in movement.settled)


def variance_sparks(movement: Movement) -> tuple[str, ...]:
    """Each layer's variance over the snapshots, as a line of blocks."""
    ratios = movement.grid.log_variance_ratio
    places = heat.chosen(ratios.shape[1], _SPARK)
    return tuple(heat.spark([row[place] for place in places]) for row in ratios)


def _furthest(values: heat.Floats) -> str:
    """The largest, with as many digits as mean something."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "-"
    return f"{finite.max():.2f}" if finite.max() < 10 else f"{finite.max():,.0f}"


def _cells(values: heat.Floats) -> tuple[tuple[float | None, ...], ...]:
    """Four digits are more than a colour shows."""
    return tuple(tuple(_rounded(value) for value in row) for row in values.tolist())


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _distributions(movement: Movement) -> Distributions:
    """As many layers as a page has room for, the important ones first."""
    shown = movement.shown
    places = heat.chosen(len(shown), _COLUMNS)
    labels = tuple(movement.snapshots[shown[place]].label for place in places)
    size = len(places) * (2 * _CHANNELS + (64 if movement.outlines else 0))
    chosen = movement.important(max(1, _NUMBERS // max(size, 1)))
    layers = tuple(_distribution(movement, movement.layers[i], places) for i in chosen)
    caption = (
        f"Mean and standard deviation of the {_CHANNELS} channels that moved most between the "
        "first snapshot and the last."
    )
    if len(places) < len(movement.snapshots):
        caption += f" {len(places)} of {count(len(movement.snapshots), 'snapshot')} are shown."
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
