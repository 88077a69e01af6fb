"""The figures that a page holds as SVG of its own: nothing to load, nothing to run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from bncheck.reporting.bars import drawn as drawn_bars
from bncheck.reporting.clouds import drawn_clouds, drawn_columns
from bncheck.reporting.figures import Bars, Clouds, Columns, Figure, Heatmap, Moves
from bncheck.reporting.moves import drawn as drawn_moves
from bncheck.reporting.svg import drawn as drawn_heatmap
from bncheck.reporting.visible import layer_name

#: The kinds of figures that it knows.
STILL: Final = (Bars, Columns, Clouds, Moves)
#: Lines that are open to see; more are opened by who wants them.
_OPEN: Final = 40


def inline(figures: Sequence[Figure]) -> Iterator[dict[str, object]]:
    """Title, caption, picture; `parts` are pictures that open and close, each with a title."""
    for figure in figures:
        if isinstance(figure, Bars):
            yield _entry(figure, drawn_bars(figure))
        elif isinstance(figure, Heatmap):
            yield _entry(figure, drawn_heatmap(figure, headed=False))
        elif isinstance(figure, Columns):
            yield _entry(figure, drawn_columns(figure))
        elif isinstance(figure, Moves):
            drawn = drawn_moves(figure)
            if len(figure.moves) <= _OPEN:
                yield _entry(figure, drawn)
            else:
                part = {"title": f"All {len(figure.moves)}", "svg": drawn, "open": False}
                yield {**_entry(figure, ""), "parts": [part]}
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


def _entry(figure: Bars | Columns | Clouds | Heatmap | Moves, svg: str) -> dict[str, object]:
    return {"title": figure.title, "caption": figure.caption, "svg": svg, "parts": []}
