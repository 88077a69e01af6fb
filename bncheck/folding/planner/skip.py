"""A skip connection round a normalisation, v + norm(v): docs/folding.md, "Skip"."""

from __future__ import annotations

from collections.abc import Mapping

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.backwards import Walk
from bncheck.folding.planner.draft import Draft, Moving, Step, check_dtype
from bncheck.folding.planner.maps import Stuck
from bncheck.graph.dataflow import Use
from bncheck.graph.specs import Add


def pull_with_skip(draft: Draft, moving: Moving, into_norms: bool) -> Step:
    """f v + g (a v + t) = (f + g) u with u = ((f + g a) v + g t) / (f + g): pull that into v."""
    graph, same = draft.graph, draft.onward(moving.output)
    output = same[-1]
    check_dtype(graph, moving)
    readers = graph.uses.get(output, [])
    if len(readers) != 1 or output in graph.outputs or readers[0].op in draft.bypassed:
        raise Stuck("it has no skip connection")
    index, slot = readers[0].op, 1 - readers[0].slot
    spec = graph.ops[index].spec
    if not isinstance(spec, Add) or not spec.total:
        raise Stuck("it has no skip connection")
    beside, passed = draft.origin(Use(index, slot))
    if graph.ops[beside.op].inputs[beside.slot] != moving.source:
        raise Stuck("it has no skip connection")
    f, g = spec.factors[slot], spec.factors[1 - slot]
    affine = moving.affine
    share = Affine((f + g * affine.scale) / (f + g), g * affine.shift / (f + g))
    wishes = {moving.entry: share, beside: share}
    step = Walk(draft, into_norms).run(moving.source, wishes)
    step.altered.update([*same, *passed])
    return step


def joins(draft: Draft, moving: Moving, index: int, spec: Add) -> bool:
    """Whether an addition adds up what a normalisation reads and what it makes."""
    if moving.norm.bare:  # it makes no map of what it reads
        return False
    inputs = draft.graph.ops[index].inputs
    uses = [draft.origin(Use(index, slot))[0] for slot in range(len(inputs))]
    summands = {draft.graph.ops[use.op].inputs[use.slot] for use in uses}
    return summands == {moving.source, moving.output} and bool(spec.total)


def pushed_through_skip(spec: Add, given: Mapping[int, Affine]) -> Affine:
    """f v + g (a v + t) = (f + g a) / (f + g) * (f + g) v + g t: a map of the plain sum."""
    ((slot, map_),) = given.items()
    f, g = spec.factors[1 - slot], spec.factors[slot]
    return Affine((f + g * map_.scale) / (f + g), g * map_.shift)
