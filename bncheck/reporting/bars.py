"""Numbers as bars on a logarithmic scale: SVG within the page, in the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape

from bncheck.reporting.figures import Bar, Bars
from bncheck.reporting.visible import visible

_ROW: Final = 18
_WIDTH: Final = 640
_LETTER: Final = 7.3  # the width of a letter at 12 px
_NUMBER: Final = 70
_TITLE: Final = 26


def drawn(figure: Bars) -> str:
    """One picture of all groups; each has a scale of its own."""
    height = sum(_TITLE + _ROW * len(bars) for _, bars in figure.groups) + 4
    spoken = escape(visible(figure.title, None), {'"': "&quot;"})
    lines = [
        f'<svg class="bars" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{spoken}">',
        *_groups(figure),
        "</svg>",
    ]
    return "\n".join(lines)


def _groups(figure: Bars) -> Iterator[str]:
    top = 0
    for title, bars in figure.groups:
        yield f'<text class="head" x="0" y="{top + 17}">{escape(visible(title, None))}</text>'
        top += _TITLE
        left = round(max(len(visible(bar.name)) for bar in bars) * _LETTER) + 10
        low, high = _decades([bar.value for bar in bars])
        for bar in bars:
            yield from _bar(bar, top, left, (math.log10(bar.value) - low) / (high - low))
            top += _ROW


def _bar(bar: Bar, top: int, left: int, share: float) -> Iterator[str]:
    width = max(1.0, share * (_WIDTH - left - _NUMBER))
    kind = ' class="marked"' if bar.marked else ""
    name = escape(visible(bar.name))
    yield f'<text x="{left - 8}" y="{top + 13}" text-anchor="end">{name}</text>'
    yield f'<rect{kind} x="{left}" y="{top + 3}" width="{width:.1f}" height="{_ROW - 6}"/>'
    yield f'<text x="{left + width + 6:.1f}" y="{top + 13}">{bar.value:.3g}</text>'


def _decades(values: list[float]) -> tuple[float, float]:
    """Powers of ten below the smallest and at the largest, so that every bar has a length."""
    logs = [math.log10(value) for value in values]
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    return low - 1 if low == min(logs) else low, max(high, low + 1)
