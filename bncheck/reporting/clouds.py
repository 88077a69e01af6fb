"""Clouds of channels about their diagonal, and columns of layers: SVG within the page."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from bncheck.reporting.figures import Cloud, Columns, LayerClouds
from bncheck.reporting.visible import layer_name, visible

_SIDE: Final = 250
_LEFT, _TOP, _BELOW = 52, 24, 40
_GAP: Final = 24
_DOT: Final = 2.4
#: Columns: the picture, and room for names where there are few.
_WIDTH, _HEIGHT = 720, 190
_NAMED: Final = 24
_WORDS: Final = 112  # room for what the lines are called
_LETTER: Final = 6.6


def drawn_clouds(layer: LayerClouds) -> str:
    """The clouds of one layer, side by side."""
    wide = _LEFT + _SIDE + _GAP
    width, height = wide * len(layer.clouds), _TOP + _SIDE + _BELOW
    spoken = "; ".join(f"{c.title}: {_slope(c)}" for c in layer.clouds)
    label = escape(f"{layer_name(layer.layer)}, {layer.note}; {spoken}", {'"': "&quot;"})
    lines = [f'<svg class="clouds" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">']
    for number, cloud in enumerate(layer.clouds):
        lines += _cloud(cloud, number * wide + _LEFT)
    return "\n".join((*lines, "</svg>"))


def _slope(cloud: Cloud) -> str:
    return "hardly varies" if cloud.slope is None else f"slope {cloud.slope:.2f}"


def _cloud(cloud: Cloud, left: int) -> Iterator[str]:
    low, high = _range((*cloud.seen, *cloud.stored))
    end, bottom = left + _SIDE, _TOP + _SIDE

    def share(value: float) -> float:
        return (value - low) / (high - low) * _SIDE

    yield f'<text class="head" x="{left}" y="15">{escape(cloud.title)}: {_slope(cloud)}</text>'
    yield f'<rect class="frame" x="{left}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}"/>'
    yield f'<line class="even" x1="{left}" y1="{bottom}" x2="{end}" y2="{_TOP}"/>'
    for x, y in zip(cloud.seen, cloud.stored, strict=True):
        yield f'<circle cx="{left + share(x):.1f}" cy="{bottom - share(y):.1f}" r="{_DOT}"/>'
    yield f'<text x="{left}" y="{bottom + 15}">{low:.3g}</text>'
    yield f'<text x="{end}" y="{bottom + 15}" text-anchor="end">{high:.3g}</text>'
    middle, centre = left + _SIDE / 2, _TOP + _SIDE / 2
    yield f'<text class="head" x="{middle}" y="{bottom + 33}" text-anchor="middle">measured</text>'
    yield (
        f'<text class="head" x="{left - 10}" y="{centre}" text-anchor="middle" '
        f'transform="rotate(-90 {left - 10} {centre})">running</text>'
    )
    yield f'<text x="{left - 6}" y="{_TOP + 10}" text-anchor="end">{high:.3g}</text>'


def _range(values: tuple[float, ...]) -> tuple[float, float]:
    """Both axes are one, so that the diagonal is where both agree."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def drawn_columns(figure: Columns) -> str:
    """A column a layer, its colour that of the line that it reaches."""
    names = [layer_name(name) for name in figure.names]
    named = len(names) <= _NAMED
    below = min(140, round(max(map(len, names)) * _LETTER)) + 16 if named else 18
    height = _HEIGHT + below
    spoken = escape(f"{figure.title}: {figure.unit} of {len(names)} layers", {'"': "&quot;"})
    lines = [
        f'<svg class="columns" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{spoken}">',
        *_columns(figure, names, named),
        "</svg>",
    ]
    return "\n".join(lines)


def _columns(figure: Columns, names: list[str], named: bool) -> Iterator[str]:
    scale = _Scale.of(figure)
    step = (_WIDTH - _LEFT - _WORDS) / len(names)
    for value, word in figure.marks:
        y = _HEIGHT - scale.tall(value)
        end = _WIDTH - _WORDS + 2
        yield f'<line class="{word}" x1="{_LEFT}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{end + 4}" y="{y + 4:.1f}">{value:g} {word}</text>'
    for place, (name, value) in enumerate(zip(names, figure.values, strict=True)):
        x = _LEFT + step * place
        reached = [word for limit, word in figure.marks if value >= limit]
        tall = max(1.0, scale.tall(value))
        kind = reached[-1] if reached else "good"
        yield (
            f'<rect class="{kind}" x="{x + step * 0.1:.1f}" y="{_HEIGHT - tall:.1f}" '
            f'width="{step * 0.8:.1f}" height="{tall:.1f}"><title>{escape(name)}: {figure.unit} '
            f"{scale.written(value)}</title></rect>"
        )
        if named:
            at = f"{x + step / 2 + 4:.1f} {_HEIGHT + 10}"
            shown = name if len(name) <= 20 else "…" + name[-19:]
            yield (
                f'<text x="{x + step / 2 + 4:.1f}" y="{_HEIGHT + 10}" text-anchor="end" '
                f'transform="rotate(-60 {at})">{escape(shown)}</text>'
            )
    yield f'<text x="{_LEFT - 6}" y="{14}" text-anchor="end">{scale.top:.3g}</text>'
    yield f'<text x="{_LEFT - 6}" y="{_HEIGHT}" text-anchor="end">{scale.foot:.3g}</text>'
    if not named:
        yield f'<text x="{_LEFT}" y="{_HEIGHT + 14}">{escape(visible(names[0]))}</text>'
        last = escape(visible(names[-1]))
        end = _WIDTH - _WORDS + 2
        yield f'<text x="{end}" y="{_HEIGHT + 14}" text-anchor="end">{last}</text>'


@dataclass(frozen=True, slots=True)
class _Scale:
    """Numbers between `foot` and `top` as heights."""

    foot: float
    top: float
    log: bool

    @classmethod
    def of(cls, figure: Columns) -> _Scale:
        """A root, so that limits stay readable beside a layer that is hundreds of units off."""
        marks = [value for value, _ in figure.marks]
        if not figure.log:
            return cls(0.0, max(*figure.values, *(value * 1.25 for value in marks)), log=False)
        positive = [value for value in (*figure.values, *marks) if value > 0]
        foot = 10.0 ** (math.ceil(math.log10(min(positive))) - 1)
        return cls(foot, 10.0 ** (math.floor(math.log10(max(positive))) + 1), log=True)

    def tall(self, value: float) -> float:
        """The height of a column."""
        if self.log:
            share = math.log10(max(value, self.foot) / self.foot)
            return share / math.log10(self.top / self.foot) * (_HEIGHT - 14)
        return math.sqrt(value / self.top) * (_HEIGHT - 14)

    def written(self, value: float) -> str:
        """A number as people read it."""
        return f"{value:.2g}" if self.log else f"{value:.3f}"
