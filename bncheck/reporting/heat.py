"""What heatmaps have in common wherever they are drawn: levels, colours, and columns that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.reporting.figures import Heatmap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

#: W2 from which on each level begins; .20 and .40 are the warning and the error.
LEVELS: Final = (0.02, 0.05, 0.10, 0.20, 0.40, 1.00, 2.00)
#: One more colour than levels, viridis from dark to light: as RGB and as one of 256.
COLOURS: Final = (
    "#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725",
)  # fmt: skip
ANSI: Final = (53, 60, 24, 30, 36, 77, 149, 220)
#: The same without colour.
LETTERS: Final = " .:-=+*#"
UNKNOWN: Final = "?"


def level(value: float) -> int | None:
    """Which level a value is in, None for NaN."""
    return None if np.isnan(value) else int(np.searchsorted(LEVELS, value, side="right"))


def binned(values: Floats, columns: int) -> Floats:
    """At most `columns` columns, each the largest of the consecutive ones that it stands for."""
    if values.shape[1] <= columns:
        return values
    parts = np.array_split(np.where(np.isnan(values), -np.inf, values), columns, axis=1)
    largest = np.stack([part.max(axis=1) for part in parts], axis=1)
    return np.where(np.isneginf(largest), np.nan, largest)


def chosen(number: int, columns: int) -> list[int]:
    """The last place of each group that `binned` makes."""
    groups = np.array_split(np.arange(number), min(number, columns))
    return [int(group[-1]) for group in groups]


def fitted(figure: Heatmap, columns: int) -> Heatmap:
    """The heatmap with at most so many columns; of signed numbers some, of others the largest."""
    number = len(figure.columns)
    if number <= columns:
        return figure
    places = chosen(number, columns)
    labels = tuple(figure.columns[place] for place in places)
    if figure.signed:
        values = tuple(tuple(row[place] for place in places) for row in figure.values)
        return replace(figure, columns=labels, values=values)
    largest = binned(np.array(figure.values, np.float64), columns).tolist()
    values = tuple(tuple(None if np.isnan(v) else v for v in row) for row in largest)
    caption = f"{figure.caption} Each column is the largest of several snapshots."
    return replace(figure, columns=labels, values=values, caption=caption)


def spark(values: Sequence[float]) -> str:
    """A line of blocks from the smallest to the largest value; blank where there is none."""
    blocks = "▁▂▃▄▅▆▇█"
    array = np.array(values, np.float64)
    if not np.isfinite(array).any():
        return " " * array.size
    low, high = np.nanmin(array), np.nanmax(array)
    steps = (array - low) / max(high - low, 1e-3) * (len(blocks) - 1)
    return "".join(" " if np.isnan(step) else blocks[round(float(step))] for step in steps)
