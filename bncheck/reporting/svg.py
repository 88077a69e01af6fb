"""One figure alone, as SVG: for a README, a paper or a pull request, without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape, quoteattr

from bncheck.core.errors import BncheckError
from bncheck.reporting import curves, heat
from bncheck.reporting.figures import Heatmap, Lines
from bncheck.reporting.visible import visible

if TYPE_CHECKING:
    from bncheck.reporting.document import Pages

_ROW: Final = 16
_LETTER: Final = 6.7  # the width of a letter at 11 px
_NAME: Final = 40
_TOP: Final = 44
_PICTURE: Final = 620
_KEY: Final = 66
_COLUMNS: Final = 120

#: Text follows the reader's theme; without one it is dark on nothing.
_STYLE: Final = (
    "text{font:11px ui-monospace,monospace;fill:#222}.h{font-weight:bold;font-size:13px}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}}"
)


def render(pages: Pages) -> str:
    """The first heatmap of the documents, or the first curves."""
    figures = [figure for document in pages.documents for figure in document.figures]
    for figure in figures:
        if isinstance(figure, Heatmap):
            return drawn(heat.fitted(figure, _COLUMNS)) + "\n"
        if isinstance(figure, Lines):
            return curves.drawn(figure)
    raise BncheckError("there is nothing to draw", "take --format html")


def drawn(figure: Heatmap, headed: bool = True) -> str:
    """One heatmap, with its title and caption or without."""
    return "\n".join(_lines(figure, _TOP if headed else 0))


def _lines(figure: Heatmap, head: int) -> Iterator[str]:
    names = [_short(name) for name in figure.rows]
    left = round(max(len(name) for name in names) * _LETTER) + 12
    cell = min(40.0, max(2.0, _PICTURE / len(figure.columns)))
    width = round(left + max(cell * len(figure.columns), _KEY * (len(heat.LEVELS) + 1)) + 12)
    bottom = head + _ROW * len(names)
    height = bottom + 54
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label={quoteattr(_text(figure.title))}>'
    )
    yield f"<style>{_STYLE}</style>"
    if head:
        yield f'<text class="h" x="8" y="16">{escape(_text(figure.title))}</text>'
        yield f'<text x="8" y="33">{escape(_text(figure.caption))}</text>'
    for index, (name, values) in enumerate(zip(names, figure.values, strict=True)):
        top = head + _ROW * index
        yield f'<text x="{left - 6}" y="{top + 12}" text-anchor="end">{escape(name)}</text>'
        for place, value in enumerate(values):
            if value is not None:
                yield _cell(left + cell * place, top, cell, value, figure, index, place)
    yield from _feet(figure, left, cell, bottom)


def _cell(
    x: float, y: int, width: float, value: float, figure: Heatmap, row: int, column: int
) -> str:
    colour = heat.COLOURS[heat.level(value) or 0]
    title = _text(f"{figure.rows[row]}, {figure.columns[column]}: {figure.unit} {value:.3g}")
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{width + 0.2:.1f}" height="{_ROW}" fill="{colour}">'
        f"<title>{escape(title)}</title></rect>"
    )


def _feet(figure: Heatmap, left: int, cell: float, bottom: int) -> Iterator[str]:
    first, last = (escape(_text(figure.columns[place])) for place in (0, -1))
    right = left + cell * len(figure.columns)
    yield f'<text x="{left}" y="{bottom + 14}">{first}</text>'
    yield f'<text x="{right:.0f}" y="{bottom + 14}" text-anchor="end">{last}</text>'
    for place, colour in enumerate(heat.COLOURS):
        x = left + _KEY * place
        low = f"{heat.LEVELS[place - 1]:g}+" if place else f"&lt;{heat.LEVELS[0]:g}"
        yield f'<rect x="{x}" y="{bottom + 26}" width="14" height="14" fill="{colour}"/>'
        yield f'<text x="{x + 19}" y="{bottom + 37}">{low}</text>'
    yield "</svg>"


def _short(name: str) -> str:
    shown = _text(name)
    return shown if len(shown) <= _NAME else "…" + shown[1 - _NAME :]


def _text(text: str) -> str:
    """Safe to show, and free of the control characters that XML cannot hold."""
    return visible(text, None)
