"""Where normalisations went, as boxes and arrows: HTML, which wraps and can be read aloud."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from bncheck.reporting.figures import Move, Moves
from bncheck.reporting.visible import layer_name, visible


def drawn(figure: Moves) -> str:
    """A line for each move."""
    return "\n".join(('<ol class="moves">', *map(_line, figure.moves), "</ol>"))


def _line(move: Move) -> str:
    return f"<li>{''.join(_parts(move))}</li>"


def _parts(move: Move) -> Iterator[str]:
    if move.stays:
        yield from _boxes("stays", move.norms)
        yield f'<span class="why">stays: {escape(visible(move.stays, None))}</span>'
        return
    yield from _boxes("gone", move.norms)
    if move.through:
        yield '<span class="past">through</span>'
        yield from _boxes("through", move.through)
    if move.into:
        yield '<span class="into"><span class="said">went into</span></span>'
        yield from _boxes("target", move.into)
    else:
        yield '<span class="why">gone: it changed nothing</span>'


def _boxes(kind: str, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        yield f'<code class="{kind}">{escape(layer_name(name))}</code>'
