"""Pushing a map in the direction of the data, into all calls that read it.

docs/folding.md, "Push". A walk visits calls from the first to the last, so that it has the maps of
all operands of a call when it comes to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bncheck.folding.algebra import FREE, Affine, identity, is_free
from bncheck.folding.planner.absorbing import absorbed_before, role_of
from bncheck.folding.planner.draft import Draft, Moving, Step, check_dtype
from bncheck.folding.planner.maps import Stuck, known_shape, merged, over_rank, settled
from bncheck.folding.planner.normalisations import data_slot, no_map
from bncheck.folding.planner.passing import pushed_through
from bncheck.folding.planner.plan import Absorbed, Place
from bncheck.folding.planner.pooling import after_larger, check_order
from bncheck.folding.planner.skip import joins, pushed_through_skip
from bncheck.graph.dataflow import UNUSED, Graph, Op
from bncheck.graph.specs import (
    Add,
    Bilinear,
    Larger,
    Mul,
    Norm,
)
from bncheck.graph.weighted import Weighted

#: The maps that some operands of a call have, by slot.
Given = Mapping[int, Affine]


def push(draft: Draft, moving: Moving, into_norms: bool) -> Step:
    """Move a normalisation into all that reads it; Stuck where one of them cannot take it."""
    check_dtype(draft.graph, moving)
    step = Step()
    try:
        return _pushed(draft, moving, into_norms, step, False)
    except Stuck:
        if not step.bypassed:
            raise
    # The constants on the way can stay, and take the shift and the scale's inverse.
    return _pushed(draft, moving, into_norms, Step(), True)


def _pushed(draft: Draft, moving: Moving, into_norms: bool, step: Step, divides: bool) -> Step:
    graph = draft.graph
    carried = {moving.output: moving.affine}
    pending = _readers(graph, moving.output, moving.output)
    if not pending:
        raise Stuck("its output is unused", UNUSED)
    while pending:
        index = min(pending)
        pending.remove(index)
        op = graph.ops[index]
        given = {slot: carried[name] for slot, name in enumerate(op.inputs) if name in carried}
        absorbs = isinstance(op.spec, Weighted) and op.spec.takes_input
        if absorbs and index not in draft.bypassed:
            _check_absorbs(draft, index, given, into_norms)
            step.folds[index] = absorbed_before(draft, index, given[0])
            step.into.append(index)
            continue
        # The mask of an idle Dropout is an output that no map reaches.
        for name, map_ in zip(
            op.outputs, _results(draft, moving, index, given, step, divides), strict=False
        ):
            carried[name] = map_
            pending |= _readers(graph, name, moving.output)
    step.altered.update(carried)
    return step


def push_scale(draft: Draft, moving: Moving, into_norms: bool) -> Step:
    """g n + b = g (n + b / g): the scale alone, where the shift stays in what makes n.

    Where g is 0 nothing is pushed, and the norm keeps that 0.
    """
    whole = settled(moving.affine)
    scale, shift = np.broadcast_arrays(whole.scale, whole.shift)
    if not whole.shifts:
        raise Stuck("it has no shift")
    divisor = np.where(scale == 0, 1.0, scale)
    step = push(draft, replace(moving, affine=Affine(divisor, 0.0 * shift)), into_norms)
    rest = Affine(np.where(scale == 0, 0.0, 1.0).reshape(-1), (shift / divisor).reshape(-1))
    step.folds[moving.norm.last] = Absorbed(bare=True, after=rest)
    step.remark = "its scale; the shift, divided by it, stays in the norm"
    return step


def _readers(graph: Graph, name: str, result: str) -> set[int]:
    """The calls that read `name`: the norm's own `result`, or what calls made of it."""
    if name in graph.outputs:
        maker = graph.ops[graph.producers[name]]
        what = "its result" if name == result else f"what {maker.called} makes of it"
        raise Stuck(f"{what} is an output of the {graph.what}")
    return {use.op for use in graph.uses.get(name, [])}


def _check_absorbs(draft: Draft, index: int, given: Given, into_norms: bool) -> None:
    op = draft.graph.ops[index]
    if set(given) != {0}:
        reason = f"it is {role_of(draft.graph, op, max(given))} of {op.called}"
        if isinstance(op.spec, Bilinear) and any(map_.shifts for map_ in given.values()):
            raise Stuck(f"{reason}, which multiplies it with the first, and no shift passes that")
        raise Stuck(reason)
    if isinstance(op.spec, Norm) and not (into_norms and draft.can_take_over(index)):
        raise Stuck(f"{op.label} follows, itself a normalisation that stays")


def _results(
    draft: Draft, moving: Moving, index: int, given: Given, step: Step, divides: bool
) -> list[Affine]:
    """The maps of a call's results."""
    op = draft.graph.ops[index]
    if index in draft.bypassed:
        return [given[data_slot(draft.graph, op)]]
    step.through.append(index)
    if isinstance(op.spec, Larger):
        return [_larger(draft, index, given, step)]
    if not isinstance(op.spec, (Add, Mul)):
        return pushed_through(draft.graph, op, given)
    own = draft.own_map(index)
    if own is not None and draft.commutes(index, given[own[0]]):
        return [given[own[0]]]
    if own is not None and divides and isinstance(op.spec, Add) and index not in draft.units:
        return [_past_constant(draft, (index, 1 - own[0]), op.spec, given[own[0]], step)]
    if own is not None:
        step.bypassed.add(index)
        return [own[1].after(given[own[0]])]
    if isinstance(op.spec, Mul):
        return [_product(draft.graph, op, op.spec, given)]
    if joins(draft, moving, index, op.spec):
        return [pushed_through_skip(op.spec, given)]
    return [_sum(draft.graph, op, op.spec, given)]


def _past_constant(draft: Draft, place: Place, spec: Add, map_: Affine, step: Step) -> Affine:
    """f (a x + t) + g c = a (f x + g (c + f t / g) / a): what goes on has no shift."""
    whole = settled(map_)
    if np.any(whole.scale == 0):
        raise Stuck(
            f"some of its scales are 0, before the constant of {draft.graph.ops[place[0]].called}"
        )
    share = spec.factors[1 - place[1]] / spec.factors[place[1]]
    edit = Affine(1.0 / whole.scale, share * whole.shift / whole.scale)
    step.constants[place] = draft.edited(place, edit)
    return Affine(whole.scale, np.zeros_like(whole.scale))


def _larger(draft: Draft, index: int, given: Given, step: Step) -> Affine:
    """max(a x + t, c) = a max(x, (c - t) / a) + t for a > 0."""
    graph, op = draft.graph, draft.graph.ops[index]
    fixed = [slot for slot, name in enumerate(op.inputs[:2]) if graph.is_constant(name)]
    if not fixed:
        return after_larger(graph, op, given)
    (slot,) = fixed
    map_ = settled(given[1 - slot])
    check_order(op, map_)
    if np.any(map_.scale == 0):
        raise Stuck(f"some of its scales are 0, before the constant of {op.called}")
    edit = Affine(1.0 / map_.scale, -map_.shift / map_.scale)
    step.constants[index, slot] = draft.edited((index, slot), edit)
    return over_rank(map_, len(known_shape(graph, op.outputs[0])))


def _product(graph: Graph, op: Op, spec: Mul, given: Given) -> Affine:
    """(a x) (b y) = (a b) (x y)."""
    rank = len(known_shape(graph, op.outputs[0]))
    if any(graph.is_constant(name) for name in op.inputs[:2]):
        raise no_map(graph, op)
    if any(map_.shifts for map_ in given.values()):
        what = "divides one activation by another" if spec.divides else "multiplies two activations"
        raise Stuck(f"{op.called} {what}, which no shift passes")
    scale = np.ones((1,) * rank)
    for slot, map_ in given.items():
        own = settled(map_).scale
        if spec.divides and slot == 1:
            if np.any(own == 0):
                raise Stuck(f"{op.called} divides by it, and some scales are 0")
            own = 1.0 / own
        scale = scale * own
    return Affine(scale, np.zeros_like(scale))


def _sum(graph: Graph, op: Op, spec: Add, given: Given) -> Affine:
    """f (a x + t1) + g (a y + t2) = a (f x + g y) + (f t1 + g t2), also where y is repeated."""
    rank = len(known_shape(graph, op.outputs[0]))
    if any(graph.is_constant(name) for name in op.inputs[:2]):
        raise no_map(graph, op)
    first, second = (over_rank(given.get(slot, identity(rank)), rank) for slot in (0, 1))
    both = merged(*(Affine(m.scale, np.zeros_like(m.scale)) for m in (first, second)))
    if both is None:
        raise Stuck(f"{op.called} adds it to an activation that does not have the same scale")
    f, g = spec.factors
    free = is_free(first.scale) | is_free(second.scale)
    return Affine(np.where(free, FREE, both.scale), f * first.shift + g * second.shift)
