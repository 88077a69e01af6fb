"""A sum of a linear call and what that call reads: docs/folding.md, "Identity".

The identity is one more kernel of the call, so the call can make up for what the other summand,
which stays as it is, does not take over.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.absorbing import output_channels
from bncheck.folding.planner.backwards import Walk
from bncheck.folding.planner.beside import find_branch, only_reader
from bncheck.folding.planner.draft import Draft, Moving, Step, check_dtype
from bncheck.folding.planner.maps import Stuck, before_repeating, shapes_of
from bncheck.graph.dataflow import Graph, Use
from bncheck.graph.specs import Add

_NONE = Stuck("its input is not a sum of a linear call and what that call reads")


def pull_with_identity(draft: Draft, moving: Moving, into_norms: bool) -> Step:
    """a (f x + g conv(x)) + t = f x + g conv'(x), conv'(x) = a conv(x) + (f (a - 1) x + t) / g."""
    check_dtype(draft.graph, moving)
    step = Step()
    _take(draft, moving.entry, moving.affine, into_norms, step)
    if any(draft.fold(index).beside for index in step.folds):
        raise _NONE  # its result is no longer a multiple of what it was
    return step


def _take(draft: Draft, reader: Use, map_: Affine, into_norms: bool, step: Step) -> None:
    """Let the sum that is read there take the map."""
    graph = draft.graph
    value = graph.ops[reader.op].inputs[reader.slot]
    index = graph.producers.get(value or "")
    if value is None or index is None or only_reader(graph, value) is None:
        raise _NONE
    add = graph.ops[index]
    if not isinstance(add.spec, Add) or index in draft.bypassed | draft.units:
        raise _NONE
    step.through.append(index)
    step.altered.add(value)
    for slot in (0, 1):
        if _is_identity(draft, index, slot, map_, into_norms, step):
            return
    for slot in (0, 1):  # it may lie in one of the summands, which are sums
        own, other = add.spec.factors[slot], Use(index, 1 - slot)
        trial = Step()
        try:
            unshifted = Affine(map_.scale, np.zeros_like(map_.shift))
            _walk(draft, other, _of_operand(graph, other, unshifted), into_norms, trial)
            shifted = Affine(map_.scale, map_.shift / own)
            use = Use(index, slot)
            _take(draft, use, _of_operand(graph, use, shifted), into_norms, trial)
        except Stuck:
            continue
        _join(step, trial)
        return
    raise _NONE


def _is_identity(
    draft: Draft, index: int, slot: int, map_: Affine, into_norms: bool, step: Step
) -> bool:
    """Whether that summand is what a linear call in the other reads; then the other takes all."""
    graph, add = draft.graph, draft.graph.ops[index]
    assert isinstance(add.spec, Add)
    source, other = add.inputs[slot], add.inputs[1 - slot]
    own, factor = add.spec.factors[slot], add.spec.factors[1 - slot]
    if source is None or source in draft.altered or _size(graph, index) != graph.shape(source):
        return False
    branch = find_branch(draft, other, source, factor, into_norms=False)
    if branch is None:
        return False
    _walk(draft, Use(index, 1 - slot), Affine(map_.scale, map_.shift / factor), into_norms, step)
    call = branch.calls[-1]
    lacking = Affine(map_.scale - 1.0, np.zeros_like(map_.shift))
    vector = output_channels(graph, graph.ops[call], lacking)
    beside = Affine(vector.scale * (own / branch.factor), vector.shift)
    step.folds[call] = replace(step.folds[call], beside=beside)
    return True


def _of_operand(graph: Graph, use: Use, map_: Affine) -> Affine:
    """A map of a sum as one of an operand, which may be broadcast."""
    op = graph.ops[use.op]
    shapes = shapes_of(graph, op.inputs[use.slot], op.outputs[0])
    return before_repeating(map_, *shapes, _NONE.reason)


def _size(graph: Graph, index: int) -> object:
    return graph.shape(graph.ops[index].outputs[0])


def _walk(draft: Draft, use: Use, map_: Affine, into_norms: bool, step: Step) -> None:
    """Let a summand take a map by itself."""
    value = draft.graph.ops[use.op].inputs[use.slot]
    if value is None:
        raise _NONE
    _join(step, Walk(draft, into_norms).run(value, {use: map_}))


def _join(step: Step, more: Step) -> None:
    if step.folds.keys() & more.folds.keys():
        raise _NONE
    step.folds |= more.folds
    step.constants |= more.constants
    step.bypassed |= more.bypassed
    step.altered |= more.altered
    step.into += more.into
    step.through += more.through
