"""How text is laid out on a console: labels in a first column, tables without lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, TextIO

from rich.console import Console, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from bncheck.core.findings import Severity
from bncheck.reporting.document import Table
from bncheck.reporting.visible import visible

#: Lines this wide off a terminal.
PLAIN_WIDTH: Final = 100
#: Width of the first column, where no word in it is longer.
LABEL: Final = 9
#: Cells up to this length are not broken.
_SHORT: Final = 12

STYLES: Final = {
    Severity.ERROR: "bold red",
    Severity.WARNING: "bold yellow",
    Severity.INFO: "cyan",
    None: "bold green",
}


def file_console(file: TextIO) -> Console:
    """A console that writes plain text into a file."""
    return Console(
        file=file, width=PLAIN_WIDTH, color_system=None, markup=False, highlight=False, emoji=False
    )


def print_all(console: Console, parts: Sequence[RenderableType]) -> None:
    """Print without the spaces that rich fills lines up with."""
    with console.capture() as captured:
        for part in parts:
            # A command is one line however long it is: it is there to be copied.
            is_long = isinstance(part, Text) and part.no_wrap is True
            console.print(part, soft_wrap=is_long, crop=False)
    text = re.sub(r" +((?:\x1b\[0m)?\n)", r"\1", captured.get())
    # A name ":" and the colon behind it would begin a line that CI runners obey.
    console.file.write(re.sub(r"^(\s*):(?=:)", r"\1\\x3a", text, flags=re.MULTILINE))


def shown(text: str, style: str = "") -> Text:
    """Any text, safe to show."""
    return Text(visible(text, None), style)


def row(label: Text, content: RenderableType, width: int = LABEL) -> RenderableType:
    """A label in the first column, and what there is to say about it in the second."""
    grid = Grid.grid(padding=0)
    grid.add_column(width=width)
    grid.add_column(overflow="fold")
    grid.add_row(label, content)
    return grid


def table(data: Table, rows: Sequence[int], width: int, header: bool = True) -> RenderableType:
    """These rows of a document's table, without lines; numbers to the right.

    Where `width` is too small, lines are longer than that: half a number is another number.
    """
    grid = Grid(box=None, pad_edge=False, header_style="bold", show_header=header)
    least = 2 * (len(data.columns) - 1)
    for place, column in enumerate(data.columns):
        right = column in data.right
        longest = max(len(column), *(len(data.rows[number][place]) for number in rows))
        narrowest = longest if right else min(longest, _SHORT)
        least += narrowest
        grid.add_column(
            visible(column, None),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right or longest <= _SHORT,
            min_width=narrowest,
        )
    grid.width = least if least > width else None
    for place in rows:
        tones = data.tones[place] if data.tones else (None,) * len(data.columns)
        grid.add_row(
            *(
                # A layer may be called by a megabyte: a cell shows as much of it as a name needs.
                Text(visible(cell), STYLES[tone] if tone else "")
                for cell, tone in zip(data.rows[place], tones, strict=True)
            )
        )
    return grid
