"""The figures that a page holds as SVG of its own: nothing to load, nothing to run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from bncheck.reporting.bars import drawn as drawn_bars
from bncheck.reporting.clouds import drawn_clouds, drawn_columns
from bncheck.reporting.figures import Bars, Clouds, Columns, Figure
from bncheck.reporting.visible import layer_name

#: The kinds of figures that it knows.
STILL: Final = (Bars, Columns, Clouds)


def inline(figures: Sequence[Figure]) -> Iterator[dict[str, object]]:
    """Title, caption, picture; `parts` are pictures that open and close, each with a title."""
    for figure in figures:
        if isinstance(figure, Bars):
            yield _entry(figure, drawn_bars(figure))
        elif isinstance(figure, Columns):
            yield _entry(figure, drawn_columns(figure))
        elif isinstance(figure, Clouds):
            parts = [
                {
                    "title": f"{layer_name(layer.layer)}: {layer.note}",
                    "svg": drawn_clouds(layer),
                    "open": layer.marked,
                }
                for layer in figure.layers
                if layer.clouds
            ]
            yield {**_entry(figure, ""), "parts": parts}


def _entry(figure: Bars | Columns | Clouds, svg: str) -> dict[str, object]:
    return {"title": figure.title, "caption": figure.caption, "svg": svg, "parts": []}
