"""A normalisation beside a linear call that reads the same value: docs/folding.md, "Beside".

Two normalisations of one value become one in the same way. Behind a move into a linear call that
is beside, no other may follow: its result is no longer a multiple of what it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.absorbing import output_channels
from bncheck.folding.planner.draft import Draft, Moving, Step, check_dtype
from bncheck.folding.planner.maps import Stuck
from bncheck.folding.planner.normalisations import Slot, data_slot
from bncheck.graph.dataflow import Graph
from bncheck.graph.linear import Linear
from bncheck.graph.specs import Add, Conv, Identity


@dataclass(frozen=True)
class Branch:
    """Calls from the end of a branch up to one that reads the source; what multiplies that one."""

    calls: tuple[int, ...]
    factor: float


def put_beside(draft: Draft, moving: Moving, into_norms: bool) -> Step:
    """Follow the additions that the result goes into until a branch of one can take it over."""
    graph = draft.graph
    check_dtype(graph, moving)
    mean = graph.ops[moving.norm.first].input(Slot.MEAN)
    if mean is not None and len(graph.uses.get(mean, [])) > 1:
        raise Stuck("it is also called elsewhere, so it is not a branch of its own")
    step = Step()
    *same, value = draft.onward(moving.output)
    step.altered.update(same)
    factor = 1.0
    while (index := only_reader(graph, value)) is not None:
        add = graph.ops[index]
        if not isinstance(add.spec, Add) or index in draft.bypassed:
            break
        step.altered.add(value)
        step.through.append(index)
        slot = add.inputs.index(value)
        factor *= add.spec.factors[slot]
        other, own = add.inputs[1 - slot], add.spec.factors[1 - slot]
        branch = find_branch(draft, other, moving.source, own, into_norms)
        if branch is not None:
            _absorb(draft, branch, moving.affine, factor, step)
            return step
        value = add.outputs[0]
    raise Stuck("no other branch of a sum can take it over")


def only_reader(graph: Graph, value: str) -> int | None:
    """The one call that reads a value, if there is one and it is not an output."""
    uses = graph.uses.get(value, [])
    return uses[0].op if len(uses) == 1 and value not in graph.outputs else None


def find_branch(
    draft: Draft, value: str | None, source: str, factor: float, into_norms: bool
) -> Branch | None:
    """The call in a sum, or of a value itself, that reads the source and can take more of it."""
    graph = draft.graph
    index = graph.producers.get(value or "")
    if value is None or index is None or only_reader(graph, value) is None:
        return None
    if (_can_merge if into_norms else _can_absorb)(draft, index, source):
        return Branch((index,), factor)
    op = graph.ops[index]
    inputs: list[tuple[str | None, float]] = []
    if index in draft.bypassed or isinstance(op.spec, Identity):
        inputs = [(op.inputs[data_slot(graph, op)], 1.0)]
    elif isinstance(op.spec, Add):
        inputs = list(zip(op.inputs, op.spec.factors, strict=True))
    for name, own in inputs:
        found = find_branch(draft, name, source, factor * own, into_norms)
        if found is not None:
            return replace(found, calls=(index, *found.calls))
    return None


def _can_merge(draft: Draft, index: int, source: str) -> bool:
    """Whether a call is another normalisation of the source that can take this one over."""
    free = draft.can_take_over(index) and index not in draft.bypassed
    return free and draft.graph.ops[index].inputs[Slot.DATA] == source


def _can_absorb(draft: Draft, index: int, source: str) -> bool:
    """Whether a call is linear in the source, place by place, and can have a diagonal added."""
    graph, op = draft.graph, draft.graph.ops[index]
    if isinstance(op.spec, Linear):
        centred = op.spec.axis is not None
    else:
        centred = isinstance(op.spec, Conv) and op.spec.centre is not None
    if not centred or op.inputs[Slot.DATA] != source or draft.fold(index).before:
        return False
    constant = all(name is None or graph.is_constant(name) for name in op.inputs[1:3])
    return constant and graph.shape(op.outputs[0]) == graph.shape(source)


def _absorb(draft: Draft, branch: Branch, affine: Affine, factor: float, step: Step) -> None:
    index = branch.calls[-1]
    graph, fold = draft.graph, draft.fold(index)
    vector = output_channels(graph, graph.ops[index], affine)
    share = factor / branch.factor
    beside = Affine(share * (vector.scale - 1.0), share * vector.shift)
    if fold.beside:
        beside = Affine(fold.beside.scale + beside.scale, fold.beside.shift + beside.shift)
    step.folds[index] = replace(fold, beside=beside)
    step.into.append(index)
    step.altered.update(name for i in branch.calls for name in graph.ops[i].outputs)
