"""A heatmap drawn with letters or coloured blanks, in the width that a terminal has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from bncheck.core.words import count
from bncheck.reporting import heat
from bncheck.reporting.figures import Heatmap, Ranking
from bncheck.reporting.prose import W2_IS
from bncheck.reporting.visible import layer_name, visible

_FIRST: Final = 5  # rows that matter first
_ROWS: Final = 30  # rows shown without --verbose
_NAME: Final = 32  # widest column of names


def picture(console: Console, figure: Heatmap, verbose: bool) -> RenderableType:
    """The rows with what stands beside them, and the legend; the important ones first."""
    first, rows = _chosen(figure, verbose)
    colour = console.color_system is not None
    columns, wide = _fitting(console, figure, [*first, *rows])
    grid = Table(box=None, pad_edge=False, header_style="bold", show_header=True)
    grid.add_column("layer", no_wrap=True)
    grid.add_column(_axis(figure, columns * wide), no_wrap=True)
    for title, _ in figure.beside:
        justify = "right" if title == "furthest" else "left"
        grid.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    cells = heat.binned(np.array(figure.values, np.float64), columns)
    for place, index in enumerate((*first, *rows)):
        bar = Text().join(_cell(heat.level(value), wide, colour) for value in cells[index])
        beside = [Text(visible(texts[index])) for _, texts in figure.beside]
        grid.add_row(Text(_short(figure.rows[index])), bar, *beside)
        if place == len(first) - 1:
            grid.add_row()
    lines = _rest(figure.ranking, len(first), len(figure.rows) - len(first) - len(rows))
    return Group(grid, _legend(figure, columns, colour), *lines)


def _chosen(figure: Heatmap, verbose: bool) -> tuple[list[int], list[int]]:
    """The rows that come first, and the others in their own order."""
    every = range(len(figure.rows))
    order = figure.ranking.order if figure.ranking else tuple(every)
    first = list(order[:_FIRST]) if figure.ranking and len(order) > 2 * _FIRST else []
    among = every if verbose else sorted(order[:_ROWS])
    return first, [index for index in among if index not in first]


def _fitting(console: Console, figure: Heatmap, rows: Sequence[int]) -> tuple[int, int]:
    """How many columns there is room for, and how many letters each may take."""
    names = max(len("settled at"), *(len(_short(figure.rows[index])) for index in rows))
    beside = sum(
        max(len(title), *(len(visible(text)) for text in texts)) for title, texts in figure.beside
    )
    number = len(figure.columns)
    room = max(8, console.width - names - beside - 10)
    columns = min(number, room)
    return columns, max(1, min(3, room // columns))


def _cell(level: int | None, wide: int, colour: bool) -> Text:
    if level is None:
        return Text(heat.UNKNOWN * wide)
    if colour:
        return Text(" " * wide, Style(bgcolor=f"color({heat.ANSI[level]})"))
    return Text(heat.LETTERS[level] * wide)


def _axis(figure: Heatmap, width: int) -> Text:
    """First and last label over the ends of the heatmap, where they fit."""
    first, last = (visible(figure.columns[place]) for place in (0, -1))
    gap = width - len(first) - len(last)
    return Text(first + " " * gap + last if gap > 0 else last[:width])


def _legend(figure: Heatmap, columns: int, colour: bool) -> Text:
    legend = Text(f"{figure.unit} to {visible(figure.against, None)}: ")
    for place in range(len(heat.LEVELS) + 1):
        legend.append_text(_cell(place, 1 if not colour else 2, colour))
        low = f"{heat.LEVELS[place - 1]:g}+" if place else f"<{heat.LEVELS[0]:g}"
        legend.append(f" {low}  " if place < len(heat.LEVELS) else f" {low}")
    if any(value is None or np.isnan(value) for row in figure.values for value in row):
        legend.append("  ").append_text(_cell(None, 1, colour)).append(" unknown")
    number = len(figure.columns)
    if columns < number:
        legend.append(f"\neach column is the largest of {-(-number // columns)} snapshots or fewer")
    if figure.unit == "W2":
        legend.append(f"\n{W2_IS}")
    return legend


def _rest(ranking: Ranking | None, first: int, left: int) -> list[RenderableType]:
    lines: list[RenderableType] = []
    if ranking and first:
        lines.append(Text(f"shown first: the {first} layers that {ranking.first}"))
    if ranking and left:
        text = f"{count(left, 'layer')} left out that {ranking.last} (--verbose shows all)"
        lines.append(Text(text))
    return lines


def _short(name: str) -> str:
    """The end of a long name tells layers apart."""
    shown = layer_name(name)
    return shown if len(shown) <= _NAME else "…" + shown[1 - _NAME :]
