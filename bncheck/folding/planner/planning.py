"""Which normalisation goes where, and why not: a pure function from a graph to a plan.

docs/folding.md, "The order of moves". Each normalisation with fixed statistics is an affine map,
which is pulled backwards into the calls that made its input, or pushed forwards into the calls that
read its output. Every step leaves the function that the graph computes as it was, so steps can
follow one another in any number.

All or nothing: a map that cannot be absorbed whole, on every path, stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from bncheck.core.matching import matches
from bncheck.core.timing import timed
from bncheck.folding.algebra import Affine
from bncheck.folding.planner.absorbing import with_plain_weight
from bncheck.folding.planner.beside import put_beside
from bncheck.folding.planner.decisions import decisions, kept_for
from bncheck.folding.planner.draft import Draft, Moving, Step
from bncheck.folding.planner.families import Family, Norms
from bncheck.folding.planner.finding import find_normalisations
from bncheck.folding.planner.forwards import push, push_scale
from bncheck.folding.planner.hints import tried
from bncheck.folding.planner.maps import Stuck
from bncheck.folding.planner.narrowing import check_narrow
from bncheck.folding.planner.normalisations import Normalisation, affine_of
from bncheck.folding.planner.plan import Decision, Plan
from bncheck.folding.planner.pulling import pull, pull_with_identity
from bncheck.folding.planner.skip import pull_with_skip
from bncheck.folding.planner.unread import partly_read, reached, without_unread
from bncheck.graph.dataflow import Graph

#: A way to move a normalisation: what changes, or Stuck. The flag says whether other normalisations
#: may absorb it.
Move: TypeAlias = Callable[[Draft, Moving, bool], Step]


@timed("planning the fold")
def plan(
    graph: Graph,
    keep: Sequence[str] = (),
    forbidden: Mapping[str, str] | None = None,
    which: Norms = Norms.BATCH,
    stay: Mapping[str, Stuck] | None = None,
) -> Plan:
    """Decide about every normalisation of the graph.

    `keep` are patterns of names to leave alone, a module's with all of its calls; `forbidden` maps
    names to the reason why a fold that would be exact on paper is not allowed (its numbers do not
    fit their dtype), and `stay` to why it cannot be written.
    """
    norms = list(find_normalisations(graph, which))
    kept: dict[int, Decision] = {}
    maps: dict[int, Affine] = {}
    partly = partly_read(graph)
    for norm in norms:
        found = _map_or_reason(graph, norm, keep, forbidden or {}, stay or {})
        if isinstance(found, Affine):
            maps[norm.last] = found
        else:
            kept[norm.last] = found
    # What is no norm and cannot go by itself is as any product and sum, unless --keep names it.
    norms = [n for n in norms if n.family is not Family.PLAIN or n.last in maps or _asked(n, keep)]
    units = frozenset(i for norm in norms if len(norm.ops) > 1 for i in norm.ops)
    held = frozenset(i for norm in norms if norm.last in kept for i in norm.ops)
    planning = _Planning(Draft(graph, units, held), maps, partly, kept)
    planning.run([norm for norm in norms if norm.last in maps])
    return planning.result(norms)


def _map_or_reason(
    graph: Graph,
    norm: Normalisation,
    keep: Sequence[str],
    forbidden: Mapping[str, str],
    stay: Mapping[str, Stuck],
) -> Affine | Decision:
    """The map of a normalisation that may move, else why it may not."""
    if _asked(norm, keep):
        return kept_for(norm, Stuck("--keep asks for it", "leave --keep out to fold it"))
    if norm.name in stay:
        return kept_for(norm, stay[norm.name])
    if norm.name in forbidden:
        hint = "use a dtype of a larger range there (float32, bfloat16)"
        return replace(kept_for(norm, Stuck(forbidden[norm.name], hint)), overflow=True)
    try:
        return affine_of(graph, norm)
    except Stuck as stuck:
        return kept_for(norm, stuck)


def _asked(norm: Normalisation, keep: Sequence[str]) -> bool:
    names = (norm.name, norm.module)
    return any(matches(name, pattern) for name in names for pattern in keep)


def _moves_of(norm: Normalisation) -> tuple[Move, ...]:
    if norm.of_weight:
        return (with_plain_weight,)
    return (push,) if norm.only_forwards else (pull, push)


@dataclass
class _Planning:
    """The draft, the step of each normalisation that moved, and why the others did not (so far).

    Keys are the places of the calls that make a normalisation's output. `partly` are the values of
    which a part is not read; `failed` are the last attempts in vain, each with its draft, and
    `stuck` why the last of all was.
    """

    draft: Draft
    maps: Mapping[int, Affine]
    partly: Mapping[str, Affine]
    kept: Mapping[int, Decision]
    steps: dict[int, Step] = field(default_factory=dict)
    failed: dict[tuple[int, bool], tuple[Draft, list[Stuck]]] = field(default_factory=dict)
    stuck: dict[int, list[Stuck]] = field(default_factory=dict)

    def run(self, waiting: list[Normalisation]) -> None:
        """Move all that can move, until none can any more."""
        before = len(waiting) + 1
        while len(waiting) < before:
            before = len(waiting)
            # Linear calls first: two normalisations are only merged where neither can go.
            for into_norms in (False, True):
                waiting = [norm for norm in waiting if not self._settle(norm, into_norms)]
            waiting = [norm for norm in waiting if not self._beside(norm, put_beside, True)]
        waiting = [norm for norm in waiting if not self._beside(norm, put_beside, False)]
        for norm in waiting:
            self._beside(norm, pull_with_identity, False)

    def _settle(self, norm: Normalisation, into_norms: bool) -> bool:
        """Whether a normalisation has gone; else why not is noted."""
        if set(norm.ops) <= self.draft.bypassed:  # it lay on the way of another one
            return True
        draft, reasons = self.failed.get((norm.last, into_norms), (None, []))
        if draft is self.draft:  # nothing has moved since
            self.stuck[norm.last] = reasons
            return False
        reasons = []
        for move in _moves_of(norm):
            stuck = self._move(norm, move, into_norms)
            if stuck is None:
                return True
            reasons.append(stuck)
        # Why the last resorts fail is of no interest beside these reasons.
        last = push_scale if norm.bare else pull_with_skip
        if not norm.of_weight and self._move(norm, last, into_norms) is None:
            return True
        self.stuck[norm.last] = reasons
        self.failed[norm.last, into_norms] = self.draft, reasons
        return False

    def _beside(self, norm: Normalisation, move: Move, into_norms: bool) -> bool:
        """Whether a normalisation has gone by a move of those that are a map of their input."""
        return not norm.only_forwards and self._move(norm, move, into_norms) is None

    def _move(self, norm: Normalisation, move: Move, into_norms: bool) -> Stuck | None:
        """Move a normalisation, or say why it cannot move that way."""
        moving = self.draft.moving(norm, self.maps[norm.last])
        read = self.partly.get(moving.output)
        if read is not None:
            moving = replace(moving, affine=without_unread(moving.affine, read))

        def moved(draft: Draft) -> Step:
            step = move(draft, moving, into_norms)
            check_narrow(draft.graph, moving, step)
            return step

        try:
            step = moved(self.draft)
        except Stuck as stuck:
            return tried(stuck, self.draft, moved)
        if read is not None:
            step.altered.update(reached(self.draft.graph, self.partly, moving.output))
        self.draft = self.draft.after(norm, step)
        self.steps[norm.last] = step
        return None

    def result(self, norms: Sequence[Normalisation]) -> Plan:
        """The plan that has come about."""
        draft, steps = self.draft, self.steps
        stuck = (norm for norm in norms if norm.last in self.stuck and norm.last not in steps)
        own = {index for norm in norms for index in norm.ops}
        kept = {norm.last: kept_for(norm, *self.stuck[norm.last]) for norm in stuck}
        # A learned product and sum that cannot go is no news: it is not a norm that stays.
        idle = {n.last for n in norms if n.family is Family.PLAIN} & set(kept) - draft.bypassed
        told = [norm for norm in norms if norm.last not in idle]
        return Plan(
            tuple(decisions(draft.graph, told, {**self.kept, **kept}, steps)),
            draft.folds,
            draft.constants,
            draft.bypassed,
            draft.altered,
            {norm.name: tuple(steps[norm.last].into) for norm in norms if norm.last in steps},
            {norm.name: tuple(steps[norm.last].constants) for norm in norms if norm.last in steps},
            {
                norm.name: tuple(sorted(steps[norm.last].bypassed - own))
                for norm in norms
                if norm.last in steps
            },
            tuple(told),
        )
