"""What the steps of a plan mean for each normalisation, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from bncheck.folding.planner.draft import Step
from bncheck.folding.planner.families import family_of
from bncheck.folding.planner.maps import Stuck
from bncheck.folding.planner.normalisations import Normalisation
from bncheck.folding.planner.plan import Decision, Status
from bncheck.graph.dataflow import Enclosed, Graph
from bncheck.graph.specs import Norm

_BEHIND = "put it directly behind a convolution or linear layer"


def decisions(
    graph: Graph,
    norms: Sequence[Normalisation],
    kept: Mapping[int, Decision],
    steps: Mapping[int, Step],
) -> Iterator[Decision]:
    """The decision about each normalisation; keys are the places of the calls that end them."""
    moved = {
        norm.last: _moved(graph, norm, steps[norm.last]) for norm in norms if norm.last in steps
    }
    carried_by = {index: last for last, step in steps.items() for index in step.bypassed}
    taken_by = {last: norm for last, step in steps.items() for norm in _norms_in(graph, step)[:1]}
    first = {**kept, **moved}
    for norm in norms:
        if norm.last in carried_by:  # it lay on the way of another one, which took it along
            carrier = moved[carried_by[norm.last]]
            yield replace(
                carrier,
                name=norm.name,
                op=norm.kind,
                through=(),
                kind=norm.family,
                module=norm.module,
            )
        else:
            yield _followed(first, taken_by, norm.last)
    yield from map(_enclosed, graph.enclosed)


def kept_for(norm: Normalisation, *stuck: Stuck) -> Decision:
    """The decision with what stands in the way, on both sides where both were tried."""
    sides = ("backwards: ", "forwards: ") if len(stuck) > 1 else ("",)
    reason = "; ".join(f"{side}{s.reason}" for side, s in zip(sides, stuck, strict=True))
    hint = next(filter(None, (s.hint for s in stuck)), "") or f"leave it{_elsewhere(norm)}"
    kind, module = norm.family, norm.module
    return Decision(
        norm.name, norm.kind, Status.KEPT, reason=reason, hint=hint, kind=kind, module=module
    )


def _elsewhere(norm: Normalisation) -> str:
    """Where a norm of that kind goes whatever else there is."""
    if norm.of_weight:
        return ""
    place = "let only linear layers read its result" if norm.only_forwards else _BEHIND
    return f", or {place} and train again"


def _norms_in(graph: Graph, step: Step) -> list[int]:
    specs = ((index, graph.ops[index].spec) for index in step.into)
    return [index for index, spec in specs if isinstance(spec, Norm) and not spec.rescales]


def _moved(graph: Graph, norm: Normalisation, step: Step) -> Decision:
    return Decision(
        norm.name,
        norm.kind,
        Status.MERGED if _norms_in(graph, step) else Status.FOLDED,
        (*(graph.ops[index].label for index in step.into), *step.stored),
        tuple(dict.fromkeys(graph.ops[index].kind for index in step.through)),
        step.remark,
        kind=norm.family,
        module=norm.module,
    )


def _followed(first: Mapping[int, Decision], taken_by: Mapping[int, int], place: int) -> Decision:
    """A decision; what was merged into a normalisation that was folded is folded, too."""
    decision = first[place]
    while place in taken_by:
        place = taken_by[place]
        target = first.get(place)
        if target is None or target.status is Status.KEPT:
            return decision
        through = (*decision.through, target.name, *target.through)
        decision = replace(decision, status=target.status, into=target.into, through=through)
    return decision


def _enclosed(norm: Enclosed) -> Decision:
    return Decision(
        norm.name,
        norm.kind,
        Status.KEPT,
        reason=f"it lies inside {norm.where}, whose graphs are left as they are",
        hint="take it out of the branch or context",
        kind=family_of(norm.kind),
    )
