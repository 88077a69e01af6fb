"""Consoles that show names as they are, and how text is laid out on them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TextIO

from rich.console import Console, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from bncheck.core.findings import Severity
from bncheck.reporting.visible import visible

if TYPE_CHECKING:
    from bncheck.reporting.document import Table

#: Lines this wide off a terminal.
PLAIN_WIDTH: Final = 100
#: Width of the first column.
_LABEL: Final = 9

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
            console.print(part, soft_wrap=isinstance(part, Text) and part.no_wrap is True)
    console.file.write(re.sub(r" +((?:\x1b\[0m)?\n)", r"\1", captured.get()))


def row(label: Text, content: RenderableType, width: int = _LABEL) -> RenderableType:
    """A label in the first column, and what there is to say about it in the second."""
    grid = Grid.grid(padding=0)
    grid.add_column(width=width)
    grid.add_column(overflow="fold")
    grid.add_row(label, content)
    return grid


def layer_name(name: str | None) -> str:
    """A layer as it is called in a sentence."""
    if name is None:
        return "whole model"
    return visible(name) or "(root)"


def table(data: Table) -> RenderableType:
    """A document's table without lines; numbers to the right."""
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(data.columns):
        numeric = bool(data.rows) and all(_numeric(cells[place]) for cells in data.rows)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for cells in data.rows:
        grid.add_row(*(Text(visible(cell, None)) for cell in cells))
    return grid


def _numeric(cell: str) -> bool:
    return not cell.strip("-") or cell.lstrip("-+")[:1].isdigit()
