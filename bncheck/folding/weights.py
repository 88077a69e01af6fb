"""A plan's numbers: what every call's weights become, in their own dtype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bncheck.folding.algebra import (
    Affine,
    Cast,
    Weights,
    cast,
    conv_after,
    conv_before,
    conv_beside,
    limits_of,
    linear_after,
    linear_before,
    linear_beside,
    norm_affine,
    rescaled_after,
    scaled,
    tiling_as_conv,
    transposed_after,
    transposed_before,
)
from bncheck.folding.planner.plan import Fold, Plan
from bncheck.folding.planner.planning import plan
from bncheck.graph.dataflow import (
    Conv,
    ConvTranspose,
    Floats,
    Graph,
    Linear,
    Lookup,
    Norm,
    Op,
    Rescaled,
)


@dataclass(frozen=True)
class NewWeights:
    """A call's new weight and bias; None leaves it without."""

    weight: Cast
    bias: Cast | None


@dataclass(frozen=True)
class Solution:
    """A plan whose numbers fit their dtypes, and these numbers; keys are places in the graph."""

    graph: Graph
    plan: Plan
    weights: Mapping[int, NewWeights] = field(default_factory=dict)
    constants: Mapping[tuple[int, int], Cast] = field(default_factory=dict)
    #: Normalisations that become a scale (weight) and a shift (bias) of their own: residual.py.
    rewritten: Mapping[int, NewWeights] = field(default_factory=dict)

    @property
    def flushed(self) -> int:
        """How many subnormal numbers became zero."""
        return sum(c.flushed for c in self._casts())

    @property
    def _new(self) -> list[NewWeights]:
        return [*self.weights.values(), *self.rewritten.values()]

    @property
    def boundary(self) -> frozenset[str]:
        """The values that must be as they were although what makes them is changed.

        All others follow from these, and are worse to compare: an activation cuts a channel down to
        a few small values, of which rounding is a large part.
        """
        altered = self.plan.altered
        changed = self.plan.bypassed | set(self.plan.folds) | set(self.rewritten)
        return frozenset(
            name
            for index, op in enumerate(self.graph.ops)
            if index in changed or not altered.isdisjoint(name for name in op.inputs if name)
            for name in op.outputs
            if name not in altered
        )

    def _casts(self) -> list[Cast]:
        pairs = [c for new in self._new for c in (new.weight, new.bias)]
        return [c for c in (*pairs, *self.constants.values()) if c is not None]


def solve(graph: Graph, keep: Sequence[str] = ()) -> Solution:
    """Plan, compute, and plan again without what does not fit its dtype."""
    forbidden: dict[str, str] = {}
    while True:
        found = plan(graph, keep, forbidden)
        weights = {i: _new_weights(graph, graph.ops[i], f) for i, f in found.folds.items()}
        constants = {
            place: _new_constant(graph, place, edit) for place, edit in found.constants.items()
        }
        overflows = _overflows(graph, found, weights, constants)
        if not overflows:
            return Solution(graph, found, weights, constants)
        forbidden.update(overflows)


def _overflows(
    graph: Graph,
    found: Plan,
    weights: Mapping[int, NewWeights],
    constants: Mapping[tuple[int, int], Cast],
) -> dict[str, str]:
    """The normalisations that make some number too large, with the reason in words."""
    bad = {
        index
        for index, new in weights.items()
        if new.weight.overflows or (new.bias is not None and new.bias.overflows)
    }
    result = {}
    for name, targets in found.targets.items():
        for index in bad.intersection(targets):
            op = graph.ops[index]
            dtype = _dtype(graph, op)
            result[name] = (
                f"folded into {op.label}, its numbers would exceed the largest {dtype}, "
                f"{limits_of(dtype).largest:g}"
            )
    if not result and any(c.overflows for c in constants.values()):
        result = dict.fromkeys(found.targets, "a constant that it passes would exceed its dtype")
    return result


def _dtype(graph: Graph, op: Op) -> str:
    """The dtype of a call's parameters; a normalisation without any has its statistics'."""
    name = op.input(1) or op.input(3)
    assert name is not None
    return graph.values[name].dtype


def _bias_dtype(graph: Graph, op: Op) -> str:
    name = op.input(2)
    return graph.values[name].dtype if name is not None else _dtype(graph, op)


def _new_weights(graph: Graph, op: Op, fold: Fold) -> NewWeights:
    quick = _only_scaled(graph, op, fold)
    if quick is not None:
        return quick
    new = _norm_weights(graph, op, fold) if isinstance(op.spec, Norm) else _linear(graph, op, fold)
    bias = None if new.bias is None else cast(new.bias, _bias_dtype(graph, op))
    return NewWeights(cast(new.weight, _dtype(graph, op)), bias)


def _only_scaled(graph: Graph, op: Op, fold: Fold) -> NewWeights | None:
    """The usual case, a convolution before its normalisation, without a copy of it in float64."""
    stored = graph.stored(op.input(1))
    if (
        stored is None
        or not isinstance(op.spec, Conv)
        or fold.before
        or not fold.after
        or fold.beside
    ):
        return None
    scale, shift = fold.after.scale, fold.after.shift
    weight = scaled(stored, scale.reshape(-1, *(1,) * (stored.ndim - 1)), _dtype(graph, op))
    old = graph.constant(op.input(2))
    bias = conv_after(Weights(np.zeros((len(scale), 0)), old), scale, shift).bias
    return NewWeights(weight, None if bias is None else cast(bias, _bias_dtype(graph, op)))


def _linear(graph: Graph, op: Op, fold: Fold) -> Weights:
    weight, bias = graph.constant(op.input(1)), graph.constant(op.input(2))
    assert weight is not None
    new = Weights(weight, bias)
    if isinstance(op.spec, Linear):
        outputs = weight.shape[0 if op.spec.output_first else 1]
        if bias is not None:
            # By row, too, where the number of rows is fixed.
            bias = np.broadcast_to(bias * op.spec.beta, (*bias.shape[:-1], outputs))
        new = Weights(weight * op.spec.alpha, bias)
    if fold.after:
        new = _after(op, new, fold.after.scale, fold.after.shift)
    if fold.before:
        new = _before(op, new, fold)
    if fold.beside:
        scale, shift = fold.beside.scale, fold.beside.shift
        centre = op.spec.centre if isinstance(op.spec, Conv) else None
        new = conv_beside(new, centre, scale, shift) if centre else linear_beside(new, scale, shift)
    return new


def _after(op: Op, new: Weights, scale: Floats, shift: Floats) -> Weights:
    spec = op.spec
    if isinstance(spec, ConvTranspose):
        return transposed_after(new, spec.groups, scale, shift)
    if isinstance(spec, Linear):
        return linear_after(new, spec.output_first, scale, shift)
    if isinstance(spec, Rescaled):
        return rescaled_after(new, scale, shift)
    if isinstance(spec, Lookup):
        return Weights(new.weight * scale + shift, None)
    return conv_after(new, scale, shift)


def _before(op: Op, new: Weights, fold: Fold) -> Weights:
    spec = op.spec
    assert fold.before is not None
    scale, shift = fold.before.scale, fold.before.shift
    if isinstance(spec, ConvTranspose):
        if fold.as_shuffle:
            return tiling_as_conv(new, spec.groups, scale, shift)
        if np.any(shift):  # a kernel of size 1: every output gets the same
            bias = tiling_as_conv(new, spec.groups, scale, shift).bias
            return Weights(transposed_before(new, scale).weight, bias)
        return transposed_before(new, scale)
    if isinstance(spec, Linear):
        return linear_before(new, spec.output_first, scale, shift)
    assert isinstance(spec, Conv)
    return conv_before(new, spec.groups, scale, shift)


def _norm_weights(graph: Graph, op: Op, fold: Fold) -> Weights:
    """gamma and beta that give a normalisation another scale and shift, its statistics kept."""
    assert isinstance(op.spec, Norm)
    gamma, beta, mean, var = (graph.constant(op.input(slot)) for slot in (1, 2, 3, 4))
    assert mean is not None
    assert var is not None
    deviation = np.sqrt(var + op.spec.eps)
    whole = fold.applied_to(Affine(*norm_affine(gamma, beta, mean, var, op.spec.eps)))
    return Weights(whole.scale * deviation, whole.shift + mean * whole.scale)


def _new_constant(graph: Graph, place: tuple[int, int], edit: Affine) -> Cast:
    op = graph.ops[place[0]]
    name = op.inputs[place[1]]
    number = graph.constant(name)
    assert number is not None
    assert name is not None
    dtype = graph.values[op.outputs[0]].dtype
    return cast(edit.scale * number + edit.shift, dtype)
