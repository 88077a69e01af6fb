"""Figures as data: a format that can draw renders them, the others leave them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows by importance: those that come `first`, and what those are like that come last."""

    order: tuple[int, ...]
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class Heatmap:
    """Rows (layers) x columns (snapshots) of numbers, None where there is none.

    Logarithmic from `low` to `high`; with `signed` linear from -high to high about 0. `marks` are
    values with a meaning, shown in the legend; `against` is what everything is held against.
    `beside` has titled columns of text, a cell for each row. Names are as they are in files.
    """

    title: str
    caption: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    unit: str
    low: float
    high: float
    against: str
    signed: bool = False
    marks: tuple[tuple[float, str], ...] = ()
    beside: tuple[tuple[str, tuple[str, ...]], ...] = ()
    ranking: Ranking | None = None


@dataclass(frozen=True, slots=True)
class Band:
    """One channel over the columns: its mean, and its standard deviation about that."""

    name: str
    mean: tuple[float | None, ...]
    sd: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Distribution:
    """One layer over the columns: some of its channels and, where counted, all values' shares.

    `shares` has a row for each of equal bins between `start` and `end`.
    """

    layer: str
    bands: tuple[Band, ...]
    shares: tuple[tuple[float, ...], ...] = ()
    start: float = 0.0
    end: float = 0.0


@dataclass(frozen=True, slots=True)
class Distributions:
    """Layers of which one at a time is looked at."""

    title: str
    caption: str
    columns: tuple[str, ...]
    layers: tuple[Distribution, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of points; with `low` and `high` a shaded band about it. None where there is none.

    `group` is the number of its colour: curves of one group are alike, and named once.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    group: int = 0


@dataclass(frozen=True, slots=True)
class Lines:
    """Curves over one axis. `ticks` names the places 0, 1, ... of x, where these are not numbers.

    `log` puts y on a logarithmic axis.
    """

    title: str
    caption: str
    x_title: str
    y_title: str
    curves: tuple[Curve, ...]
    ticks: tuple[str, ...] = ()
    log: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """A positive number by its name; `marked` where the caption speaks of it."""

    name: str
    value: float
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Bars:
    """Numbers side by side on one logarithmic scale, in groups with a title each."""

    title: str
    caption: str
    groups: tuple[tuple[str, tuple[Bar, ...]], ...]


@dataclass(frozen=True, slots=True)
class Columns:
    """A number for each layer, side by side, over lines at values with a meaning.

    With `log` on a logarithmic scale, on which an exact 0 stands at its foot.
    """

    title: str
    caption: str
    unit: str
    names: tuple[str, ...]
    values: tuple[float, ...]
    marks: tuple[tuple[float, str], ...]
    log: bool = False


@dataclass(frozen=True, slots=True)
class Cloud:
    """What a layer stores against what it sees: a point for each channel, about the diagonal.

    `slope` is that of stored over seen, None where these hardly vary.
    """

    title: str
    seen: tuple[float, ...]
    stored: tuple[float, ...]
    slope: float | None


@dataclass(frozen=True, slots=True)
class LayerClouds:
    """The clouds of one layer; `note` says how wrong it is, and `marked` ones are open."""

    layer: str
    note: str
    marked: bool
    clouds: tuple[Cloud, ...]


@dataclass(frozen=True, slots=True)
class Clouds:
    """Layers of which each is looked at by itself, the worst first."""

    title: str
    caption: str
    layers: tuple[LayerClouds, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """Normalisations that went into the same calls, past others; or one that stays, and why."""

    norms: tuple[str, ...]
    into: tuple[str, ...] = ()
    through: tuple[str, ...] = ()
    stays: str = ""


@dataclass(frozen=True, slots=True)
class Moves:
    """Where each normalisation went, in the order of the model."""

    title: str
    caption: str
    moves: tuple[Move, ...]


Figure: TypeAlias = "Heatmap | Distributions | Lines | Bars | Columns | Clouds | Moves"
