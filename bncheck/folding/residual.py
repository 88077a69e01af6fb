"""Normalisations that no neighbour can take over, as calls that every runtime has: for an export.

With fixed statistics each is y = scale * x + shift by channel. As a 1 x 1 depthwise convolution it
is the cheapest form in onnxruntime that is not a BatchNormalization: a convolution stays in the
blocked layout (NCHWc) that a product and a sum would break. That holds at its default level; below
it, a product and a sum are a little cheaper (`python -m tests.benchmarks.residual`).

Where all scales are positive, ReLU(a x + b) = a ReLU(x + b/a) would let the next layer take over a
and leave one sum. Below the default level a DenseNet gains 9% by that, and at it loses 10%: the
sum leaves the blocked layout as well. Hence not done.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from bncheck.folding.algebra import cast
from bncheck.folding.planner.maps import Stuck
from bncheck.folding.planner.normalisations import Normalisation, affine_of
from bncheck.folding.planner.plan import Absorbed, Decision, Plan, Status
from bncheck.folding.weights import NewWeights, Solution
from bncheck.graph.dataflow import Graph
from bncheck.graph.specs import Norm


class Residual(StrEnum):
    """What becomes of a normalisation that stays."""

    CONV = "conv"
    MULADD = "muladd"
    BN = "bn"


def rewritten(solution: Solution, form: Residual) -> Solution:
    """The solution with every normalisation of fixed statistics that stays in another form.

    What normalises with the batch, or would overflow its dtype in that form, stays as it is.
    """
    if form is Residual.BN:
        return solution
    graph, plan = solution.graph, solution.plan
    decisions = list(plan.decisions)
    made: dict[int, NewWeights] = {}
    for place, norm in enumerate(plan.norms):
        if decisions[place].status is Status.KEPT:
            new = _as_calls(graph, plan, norm, form)
            if new is not None:
                made[norm.last] = new
                decisions[place] = _rewritten(decisions[place], new)
    return replace(
        solution,
        plan=replace(plan, decisions=tuple(decisions)),
        weights={index: new for index, new in solution.weights.items() if index not in made},
        rewritten=made,
    )


def _as_calls(graph: Graph, plan: Plan, norm: Normalisation, form: Residual) -> NewWeights | None:
    op = graph.ops[norm.last]
    if not isinstance(op.spec, Norm):
        return None
    try:
        affine = affine_of(graph, norm)
    except Stuck:
        return None
    source, result = op.inputs[0], op.outputs[0]
    assert source is not None
    dtype, rank = graph.values[result].dtype, affine.scale.ndim
    affine = plan.folds.get(norm.last, Absorbed()).applied_to(affine)
    channels = affine.scale.size
    if graph.values[source].dtype != dtype or affine.scale.shape[1:2] != (channels,):
        return None
    is_conv = form is Residual.CONV and rank == 4
    sizes = (channels, 1, 1, 1) if is_conv else (1, channels, *(1,) * (rank - 2))
    scale = cast(affine.scale.reshape(sizes), dtype)
    shift = cast(affine.shift.reshape((channels,) if is_conv else sizes), dtype)
    return None if scale.overflows or shift.overflows else NewWeights(scale, shift)


def _rewritten(kept: Decision, new: NewWeights) -> Decision:
    is_conv = new.bias is not None and new.bias.array.ndim == 1
    form = "1x1 depthwise convolution" if is_conv else "product and sum"
    return replace(kept, status=Status.REWRITTEN, into=(f"a {form}",), hint="", overflow=False)
