"""Whether a hint would help: the move is tried on the graph that it would make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from bncheck.folding.planner.draft import Draft
from bncheck.folding.planner.maps import Stuck

#: So many changes of a model are worth a hint.
_MOST = 3


def tried(stuck: Stuck, draft: Draft, move: Callable[[Draft], object]) -> Stuck:
    """The same, with its hint only where `move` succeeds once it is followed."""
    if stuck.instead is None:
        return stuck
    return Stuck(stuck.reason, partial(_hint, stuck, draft, move, _MOST))


def _hint(stuck: Stuck, draft: Draft, move: Callable[[Draft], object], left: int) -> str:
    """All the changes that it takes; "" where more is in the way."""
    if stuck.instead is None or not left:
        return ""
    op, spec = stuck.instead
    graph = draft.graph
    ops = tuple(replace(other, spec=spec) if other == op else other for other in graph.ops)
    changed = replace(draft, graph=replace(graph, ops=ops))
    try:
        move(changed)
    except Stuck as more:
        rest = _hint(more, changed, move, left - 1)
        return f"{stuck.hint}; {rest}" if rest else ""
    return stuck.hint
