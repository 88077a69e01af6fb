"""Which normalisation goes where, and why not: a pure function from a graph to a plan.

Each normalisation with fixed statistics is an affine map. It is pulled backwards into the calls
that made its input, or pushed forwards into the calls that read its output. Every step leaves the
function that the graph computes as it was, so steps can follow one another in any number.

All or nothing: a map that cannot be absorbed whole, on every path, stays where it is.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.backwards import Backwards
from bncheck.folding.planner.beside import Beside
from bncheck.folding.planner.candidates import Candidate, affine_of, find_candidates
from bncheck.folding.planner.draft import Step, with_merged
from bncheck.folding.planner.forwards import Forwards
from bncheck.folding.planner.maps import Stuck
from bncheck.folding.planner.plan import Decision, Fold, Plan, Status
from bncheck.graph.dataflow import (
    Enclosed,
    Graph,
    Norm,
)


def plan(
    graph: Graph,
    keep: Sequence[str] = (),
    forbidden: Mapping[str, str] | None = None,
) -> Plan:
    """Decide about every normalisation of the graph.

    `keep` are patterns of names to leave alone; `forbidden` maps names to the reason why a fold
    that would be exact on paper is none (its numbers do not fit their dtype).
    """
    return _Planner(graph, keep, forbidden or {}).run()


class _Planner(Backwards, Forwards, Beside):
    def run(self) -> Plan:
        candidates = list(find_candidates(self.graph))
        self.units.update(i for c in candidates if len(c.ops) > 1 for i in c.ops)
        waiting = []
        for candidate in candidates:
            reason = self._never(candidate)
            if reason:
                self.held.update(candidate.ops)
                self.decisions[candidate.last] = reason
            else:
                waiting.append(candidate)
        progress = True
        while progress and waiting:
            before = len(waiting)
            # Linear calls first: two normalisations are only merged where neither can go.
            for into_norms in (False, True):
                waiting = [c for c in waiting if not self._move(c, into_norms)]
            waiting = [c for c in waiting if not self._move_beside(c, into_norms=True)]
            progress = len(waiting) < before
        for candidate in waiting:
            self._move_beside(candidate, into_norms=False)
        return Plan(
            (*(self._final(c) for c in candidates), *map(_enclosed, self.graph.enclosed)),
            self.folds,
            self.constants,
            frozenset(self.bypassed),
            frozenset(self.altered),
            self.targets,
        )

    def _never(self, candidate: Candidate) -> Decision | None:
        kept = Decision(candidate.name, candidate.kind, Status.KEPT)
        if any(fnmatch.fnmatchcase(candidate.name, pattern) for pattern in self.keep):
            return replace(kept, reason="--keep asks for it")
        if candidate.name in self.forbidden:
            return replace(
                kept,
                reason=self.forbidden[candidate.name],
                hint="in a dtype of a larger range (float32, bfloat16) it could be folded",
                overflow=True,
            )
        try:
            affine_of(self.graph, candidate)
        except Stuck as stuck:
            return replace(kept, reason=stuck.reason, hint=stuck.hint)
        return None

    def _move(self, candidate: Candidate, into_norms: bool) -> bool:
        if set(candidate.ops) <= self.bypassed:  # it lay on the way of another one
            return True
        try:
            affine = self._affine(candidate)
        except Stuck as stuck:
            self._keep(candidate, stuck)
            return False
        reasons = []
        for attempt in (self._pull, self._push):
            try:
                step = attempt(candidate, affine, into_norms)
            except Stuck as stuck:
                reasons.append(stuck)
                continue
            self._accept(candidate, step)
            return True
        residual = self._residual(candidate, affine, into_norms)
        if residual is not None:
            self._accept(candidate, residual)
            return True
        self._keep(candidate, *reasons)
        return False

    def _move_beside(self, candidate: Candidate, *, into_norms: bool) -> bool:
        """The last resort; why it fails is of no interest beside the reasons before."""
        with contextlib.suppress(Stuck):
            affine = self._affine(candidate)
            self._accept(candidate, self._put_beside(candidate, affine, into_norms))
            return True
        return False

    def _affine(self, candidate: Candidate) -> Affine:
        """The candidate's own map with those that it has taken over from others."""
        own = affine_of(self.graph, candidate)
        return with_merged(own, self.folds.get(candidate.last, Fold()))

    def _keep(self, candidate: Candidate, *stuck: Stuck) -> None:
        reason = "; ".join(
            f"{side}: {s.reason}" if len(stuck) > 1 else s.reason
            for side, s in zip(("backwards", "forwards"), stuck, strict=False)
        )
        hint = next((s.hint for s in stuck if s.hint), "")
        decision = Decision(candidate.name, candidate.kind, Status.KEPT, reason=reason, hint=hint)
        self.decisions[candidate.last] = decision

    def _accept(self, candidate: Candidate, step: Step) -> None:
        for index, fold in step.folds.items():
            self.folds[index] = fold
        self.constants.update(step.constants)
        self.bypassed |= step.bypassed | set(candidate.ops)
        ops = self.graph.ops
        # What comes out of the normalisation itself is from now on what comes in, and as it was.
        inner = {name for index in candidate.ops[:-1] for name in ops[index].outputs}
        self.altered |= step.altered | inner
        self.folds.pop(candidate.last, None)
        into = list(dict.fromkeys(step.into))
        self.targets[candidate.name] = tuple(into)
        self.dissolved.update(dict.fromkeys(step.bypassed, candidate.last))
        norms = [index for index in into if isinstance(ops[index].spec, Norm)]
        if norms:
            self.merged_into[candidate.last] = norms[0]
        self.decisions[candidate.last] = Decision(
            candidate.name,
            candidate.kind,
            Status.MERGED if norms else Status.FOLDED,
            tuple(ops[index].label for index in into),
            tuple(dict.fromkeys(ops[index].kind for index in step.through)),
        )

    def _final(self, candidate: Candidate) -> Decision:
        """The decision; what was merged into a normalisation that was folded is folded, too."""
        decision = self.decisions.get(candidate.last)
        if candidate.last in self.dissolved:
            other = self.decisions[self.dissolved[candidate.last]]
            return replace(other, name=candidate.name, op=candidate.kind, through=())
        assert decision is not None
        place, through = candidate.last, list(decision.through)
        while place in self.merged_into:
            place = self.merged_into[place]
            target = self.decisions.get(place)
            if target is None or target.status is Status.KEPT:
                return decision
            through += [target.name, *target.through]
            decision = replace(
                decision, status=target.status, into=target.into, through=tuple(through)
            )
        return decision


def _enclosed(norm: Enclosed) -> Decision:
    return Decision(
        norm.name,
        norm.kind,
        Status.KEPT,
        reason=f"it lies inside {norm.where}, whose graphs are left as they are",
        hint="take it out of the branch or context to let it be folded",
    )
