"""Curves and their bands as SVG, drawn without a browser."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from bncheck.reporting.figures import Curve, Lines
from bncheck.reporting.visible import visible

#: The picture, and the room around the axes.
WIDTH: Final = 720
HEIGHT: Final = 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 48, 44
_LEGEND_ROW: Final = 18
_LETTER: Final = 6.7
HUES: Final = (
    "#2f7ed8", "#d9602b", "#2a9d58", "#a05fc4", "#c2365b", "#7a8b23", "#2aa0a4", "#8a6d4b",
)  # fmt: skip
#: Text and grid follow the reader's theme; without one they are dark on nothing.
_STYLE: Final = (
    "text{font:11px ui-monospace,monospace;fill:#222}.h{font-weight:bold;font-size:13px}"
    ".g{stroke:#8884;stroke-width:1}@media(prefers-color-scheme:dark){text{fill:#ddd}}"
)


@dataclass(frozen=True, slots=True)
class _Scale:
    """From numbers to places of the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        share = (self._seen(value) - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            first, last = math.floor(self.low), math.ceil(self.high)
            step = max(1, (last - first) // 5)
            powers = [10.0**p for p in range(first, last + 1, step)]
            return [p for p in powers if self.low - 1e-9 <= math.log10(p) <= self.high + 1e-9]
        raw = (self.high - self.low) / 7 or 1.0
        unit = 10 ** math.floor(math.log10(raw))
        step = unit * next(m for m in (1, 2, 5, 10) if m * unit >= raw)
        first = math.ceil(self.low / step)
        return [step * k for k in range(first, math.floor(self.high / step) + 1)]

    def _seen(self, value: float) -> float:
        return math.log10(value) if self.log else value


def drawn(figure: Lines) -> str:
    """The whole picture as the text of a file."""
    return "\n".join(_parts(figure)) + "\n"


def _parts(figure: Lines) -> Iterator[str]:
    legend = list(_legend(figure))
    rows = 1 + max((row for row, *_ in legend), default=0) if len(legend) > 1 else 0
    top = _TOP + rows * _LEGEND_ROW
    height = HEIGHT + rows * _LEGEND_ROW
    title = quoteattr(_text(figure.title))
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label={title}>'
    )
    yield f"<style>{_STYLE}</style>"
    yield f'<text class="h" x="8" y="16">{escape(_text(figure.title))}</text>'
    yield f'<text x="8" y="33">{escape(_text(figure.caption))}</text>'
    for row, x, name, hue in legend if rows else ():
        y = _TOP + row * _LEGEND_ROW
        yield f'<rect x="{x:.0f}" y="{y - 4}" width="14" height="4" fill="{hue}"/>'
        yield f'<text x="{x + 19:.0f}" y="{y}">{escape(name)}</text>'
    across, up = _scales(figure, top + 4, height - _BOTTOM)
    yield from _axes(figure, across, up, height)
    for curve in figure.curves:
        yield from _curve(curve, across, up)
    yield "</svg>"


def _legend(figure: Lines) -> Iterator[tuple[int, float, str, str]]:
    """Row, place, name and colour of every name, once."""
    row, x = 0, 8.0
    for name, group in dict.fromkeys((_text(c.name), c.group) for c in figure.curves):
        wide = 19 + len(name) * _LETTER + 18
        if x + wide > WIDTH and x > 8:
            row, x = row + 1, 8.0
        yield row, x, name, HUES[group % len(HUES)]
        x += wide


def _scales(figure: Lines, top: float, bottom: float) -> tuple[_Scale, _Scale]:
    xs = [x for curve in figure.curves for x in curve.x]
    ys = [
        y for curve in figure.curves for part in (curve.y, curve.low, curve.high)
        for y in part if _known(y, figure.log)
    ]  # fmt: skip
    seen = [math.log10(y) if figure.log else float(y) for y in ys if y is not None] or [0.0, 1.0]
    margin = 0.04 * (max(seen) - min(seen)) or 0.5
    across = _Scale(min(xs, default=0), max(xs, default=1), _LEFT + 6, WIDTH - _RIGHT - 6)
    return across, _Scale(min(seen) - margin, max(seen) + margin, bottom, top, figure.log)


def _known(value: float | None, log: bool) -> bool:
    return value is not None and math.isfinite(value) and (not log or value > 0)


def _axes(figure: Lines, across: _Scale, up: _Scale, height: int) -> Iterator[str]:
    for value in up.ticks():
        y = up.at(value)
        yield f'<line class="g" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
    named = _named_ticks(figure) if figure.ticks else [(x, f"{x:g}") for x in across.ticks()]
    for value, word in named:
        x = across.at(value)
        yield (
            f'<text x="{x:.1f}" y="{height - _BOTTOM + 16}" text-anchor="middle">'
            f"{escape(word)}</text>"
        )
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    yield (
        f'<text x="{middle:.0f}" y="{height - 8}" text-anchor="middle">'
        f"{escape(_text(figure.x_title))}</text>"
    )
    centre = (up.start + up.end) / 2
    yield (
        f'<text x="14" y="{centre:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 14 {centre:.0f})">{escape(_text(figure.y_title))}</text>'
    )


def _named_ticks(figure: Lines) -> list[tuple[float, str]]:
    longest = max(len(tick) for tick in figure.ticks) * _LETTER + 14
    step = max(1, math.ceil(len(figure.ticks) * longest / (WIDTH - _LEFT - _RIGHT)))
    return [(float(k), _text(figure.ticks[k])) for k in range(0, len(figure.ticks), step)]


def _curve(curve: Curve, across: _Scale, up: _Scale) -> Iterator[str]:
    hue = HUES[curve.group % len(HUES)]
    if curve.low:
        edge = [*_points(curve.x, curve.low, across, up)]
        back = [*_points(curve.x, curve.high, across, up)][::-1]
        yield f'<polygon points="{" ".join((*edge, *back))}" fill="{hue}" fill-opacity="0.18"/>'
    points = " ".join(_points(curve.x, curve.y, across, up))
    yield f'<polyline points="{points}" fill="none" stroke="{hue}" stroke-width="1.8">'
    yield f"<title>{escape(_text(curve.name))}</title></polyline>"


def _points(
    xs: Sequence[float], ys: Sequence[float | None], across: _Scale, up: _Scale
) -> Iterator[str]:
    for x, y in zip(xs, ys, strict=True):
        if y is not None and _known(y, up.log):
            yield f"{across.at(x):.1f},{up.at(y):.1f}"


def _text(text: str) -> str:
    """Safe to show, and free of the control characters that XML cannot hold."""
    return visible(text, None)
