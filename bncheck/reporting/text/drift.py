"""The movement at the terminal: what it comes to in words, then layers x snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from bncheck.core.findings import Severity
from bncheck.core.words import count
from bncheck.drifting.report import DriftReport
from bncheck.reporting import heat
from bncheck.reporting.layout import STYLES, layer_name, print_all, row
from bncheck.reporting.text.inspect import finding_rows
from bncheck.reporting.visible import visible
from bncheck.series.movement import Movement, Source

_FIRST: Final = 5  # layers that matter first
_ROWS: Final = 30  # layers shown without --verbose
_NAME: Final = 32  # widest column of names
_SPARK: Final = 12
_NAMED: Final = 4
_TRAILS: Final = 0.05  # a predicted lag worth a sentence

_STANDING: Final = {
    "suspect": STYLES[Severity.WARNING],
    "moving": STYLES[Severity.INFO],
    "settled": STYLES[None],
}


def show(console: Console, report: DriftReport, verbose: bool) -> None:
    """Print the report; the heatmap fills the width that there is."""
    movement = report.movement
    word = report.verdict.upper() if report.verdict == "suspect" else report.verdict
    head = Text(word, _STANDING[report.verdict])
    parts: list[RenderableType] = [row(head, Text(what(report), "bold"))]
    parts += [row(Text(), Text(line)) for line in sentences(report)]
    parts += finding_rows(report.findings, verbose)
    if movement.layers and len(movement.snapshots) > 1:
        parts += [Text(), _picture(console, movement, verbose)]
    print_all(console, parts)


def what(report: DriftReport) -> str:
    """11 snapshots, 000 to 499; 25 layers from the running statistics."""
    movement = report.movement
    snapshots = movement.snapshots
    labels = f"{snapshots[0].label} to {snapshots[-1].label}"
    seen = f", measured on {movement.samples:,} samples" if movement.samples else ""
    how = seen or ", from the files' running statistics"
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
    if movement.source is Source.DATA and movement.noise:
        lines.append(f"sampling alone would show W2 {movement.noise:.3f}; it is taken off")
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
    if movement.source is Source.DATA:
        lag, start = movement.lag, "the running statistics are up to W2 {:.2f} from what is seen"
    else:
        lag, start = movement.predicted_lag, "running averages trail the weights by up to W2 {:.2f}"
    worst = np.nan_to_num(lag, nan=-1.0)
    if worst.size == 0 or worst.max() < (0.0 if movement.source is Source.DATA else _TRAILS):
        return []
    row, column = np.unravel_index(int(worst.argmax()), worst.shape)
    label = visible(movement.snapshots[int(column)].label)
    name = layer_name(movement.layers[int(row)])
    end = max(0.0, float(worst[:, -1].max()))
    told = "" if movement.source is Source.DATA else ", by the speed at which they move"
    return [f"{start.format(worst.max())} ({name} at {label}), {end:.2f} at the end{told}"]


def _dead(movement: Movement) -> list[str]:
    total = movement.dead.sum(axis=0)
    if not total.any():
        return []
    grown = np.flatnonzero(np.diff(total, prepend=total[:1]) > 0)
    since = f", more since {visible(movement.snapshots[grown[-1]].label)}" if grown.size else ""
    return [f"channels that never vary: {total[0]} at the beginning, {total[-1]} at the end{since}"]


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


def _picture(console: Console, movement: Movement, verbose: bool) -> RenderableType:
    number = len(movement.snapshots)
    first = movement.important(_FIRST) if len(movement.layers) > 2 * _FIRST else []
    among = range(len(movement.layers)) if verbose else sorted(movement.important(_ROWS))
    shown = [index for index in among if index not in first]
    names = [_short(movement.layers[index]) for index in (*first, *shown)]
    width = max(len("settled at"), *(len(name) for name in names))
    spark = min(_SPARK, number)
    settled = max(len("settled at"), *(len(visible(s.label)) for s in movement.snapshots))
    room = max(
        8, console.width - width - max(spark, len("variance")) - settled - len("furthest") - 10
    )
    columns = min(number, room)
    wide = max(1, min(3, room // columns))
    grid = Table(box=None, pad_edge=False, header_style="bold", show_header=True)
    grid.add_column("layer", no_wrap=True)
    grid.add_column(_axis(movement, columns * wide), no_wrap=True)
    grid.add_column("furthest", justify="right", no_wrap=True)
    grid.add_column("variance", no_wrap=True)
    grid.add_column("settled at", no_wrap=True)
    cells = heat.binned(movement.grid.w2, columns)
    colour = console.color_system is not None
    for place, index in enumerate((*first, *shown)):
        grid.add_row(*_row(movement, index, names[place], cells[index], wide, spark, colour))
        if place == len(first) - 1:
            grid.add_row()
    lines: list[RenderableType] = [grid, _legend(movement, columns, colour)]
    if first:
        lines.append(Text(f"first the {len(first)} layers that settled last or moved furthest"))
    left = len(movement.layers) - len(first) - len(shown)
    if left:
        lines.append(
            Text(
                f"{count(left, 'layer')} left out that settled earlier or moved less "
                "(--verbose shows all)"
            )
        )
    return Group(*lines)


def _row(
    movement: Movement, index: int, name: str, cells: heat.Floats, wide: int, spark: int,
    colour: bool,
) -> tuple[Text, Text, str, str, str]:  # fmt: skip
    bar = Text()
    for value in cells:
        bar.append_text(_cell(heat.level(value), wide, colour))
    ratio = movement.grid.log_variance_ratio[index]
    places = heat.chosen(ratio.size, spark)
    far = movement.grid.w2[index]
    place = movement.settled[index]
    last = len(movement.snapshots) - 1
    label = "-" if place is None else visible(movement.snapshots[place].label)
    return (
        Text(name),
        bar,
        _distance(far),
        heat.spark([ratio[p] for p in places]),
        "still moving" if place == last and last else label,
    )


def _distance(values: heat.Floats) -> str:
    """The largest, with as many digits as mean something."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "-"
    return f"{finite.max():.2f}" if finite.max() < 10 else f"{finite.max():,.0f}"


def _cell(level: int | None, wide: int, colour: bool) -> Text:
    if level is None:
        return Text(heat.UNKNOWN * wide if not colour else "·" * wide)
    if colour:
        return Text(" " * wide, Style(bgcolor=f"color({heat.ANSI[level]})"))
    return Text(heat.LETTERS[level] * wide)


def _axis(movement: Movement, width: int) -> Text:
    """First and last label over the ends of the heatmap, where they fit."""
    first, last = (visible(movement.snapshots[place].label) for place in (0, -1))
    gap = width - len(first) - len(last)
    return Text(first + " " * gap + last if gap > 0 else last[:width])


def _legend(movement: Movement, columns: int, colour: bool) -> Text:
    reference = movement.reference
    against = f"the {reference.kind} snapshot"
    if reference.kind == "file":
        against = visible(str(reference.path), None)
    elif reference.kind == "previous":
        against = "the snapshot before"
    legend = Text(f"W2 to {against}: ")
    for place in range(len(heat.LEVELS) + 1):
        legend.append_text(_cell(place, 1 if not colour else 2, colour))
        low = f"{heat.LEVELS[place - 1]:g}+" if place else f"<{heat.LEVELS[0]:g}"
        legend.append(f" {low}  " if place < len(heat.LEVELS) else f" {low}")
    number = len(movement.snapshots)
    if columns < number:
        legend.append(f"\neach column is the largest of {-(-number // columns)} snapshots or fewer")
    return legend


def _short(name: str) -> str:
    """The end of a long name tells layers apart."""
    shown = layer_name(name)
    return shown if len(shown) <= _NAME else "…" + shown[1 - _NAME :]
