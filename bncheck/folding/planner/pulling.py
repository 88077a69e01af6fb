"""The moves of a normalisation into what made its input: docs/folding.md, "Pull", "Identity"."""

from __future__ import annotations

from functools import partial

from bncheck.folding.planner.backwards import Walk
from bncheck.folding.planner.draft import Draft, Moving, Step, check_dtype
from bncheck.folding.planner.maps import Shared, Stuck
from bncheck.folding.planner.sums import combinations


def pull(draft: Draft, moving: Moving, into_norms: bool) -> Step:
    """Move a normalisation into what made its input; Stuck with the first reason why not.

    The ways of sharing shifts among the additions between are tried one after the other.
    """
    check_dtype(draft.graph, moving)
    wishes = {moving.entry: moving.affine}
    first = Walk(draft, into_norms)
    try:
        return first.run(moving.source, wishes)
    except Stuck as stuck:
        failure = first.computed or stuck
    for ways in combinations(first.sums):
        try:
            return Walk(draft, into_norms, ways).run(moving.source, wishes)
        except Stuck:
            continue
    if not isinstance(failure, Shared):
        raise failure
    raise Stuck(failure.reason, partial(_hint_if_alone, failure, draft, moving, into_norms))


def _hint_if_alone(failure: Shared, draft: Draft, moving: Moving, into_norms: bool) -> str:
    """Without the other reader it may be stuck all the same, and then that would not help."""
    try:
        walk = Walk(draft, into_norms, alone=failure.value)
        walk.run(moving.source, {moving.entry: moving.affine})
    except Stuck:
        return ""
    return failure.hint


def pull_with_identity(draft: Draft, moving: Moving, into_norms: bool) -> Step:
    """The same where a summand is what a linear call in the other reads, and stays as it is."""
    check_dtype(draft.graph, moving)
    walk = Walk(draft, into_norms, with_identity=True)
    step = walk.run(moving.source, {moving.entry: moving.affine})
    if not walk.identities or any(draft.fold(index).beside for index in step.folds):
        raise Stuck("its input is not a sum of a linear call and what that call reads")
    return step
