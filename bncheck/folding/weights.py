"""A plan's numbers: what every call's weights become, in their own dtype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from bncheck.folding.algebra import (
    Affine,
    Cast,
    Kernel,
    LinearCall,
    cast,
    limits_of,
    norm_affine,
    scaled,
    scaled_bias,
)
from bncheck.folding.planner.computed import has_computed_weight
from bncheck.folding.planner.families import Norms
from bncheck.folding.planner.maps import Stuck, each
from bncheck.folding.planner.normalisations import Slot, channel_axes, parameters_of
from bncheck.folding.planner.plan import Absorbed, Place, Plan
from bncheck.folding.planner.planning import plan
from bncheck.graph.dataflow import Floats, Graph, Op
from bncheck.graph.linear import Linear
from bncheck.graph.specs import Bilinear, Conv, ConvTranspose, Norm, Recurrent, Rescaled, Spec

#: A weight in its dtype, and a bias that is still to be cast; the same in float64.
_Computed = tuple[Cast | None, Floats | None]
_Numbers = tuple[Floats, Floats | None]


@dataclass(frozen=True)
class NewWeights:
    """A call's new weight and bias; None leaves it without. `plain`: they are 1 and 0.

    Without a weight, the call has one that other calls compute.
    """

    weight: Cast | None
    bias: Cast | None
    plain: bool = False


@dataclass(frozen=True)
class Solution:
    """A plan whose numbers fit their dtypes, and these numbers; keys are places in the graph."""

    graph: Graph
    plan: Plan
    weights: Mapping[int, NewWeights] = field(default_factory=dict)
    constants: Mapping[Place, Cast] = field(default_factory=dict)
    #: Normalisations that become a scale (weight) and a shift (bias) of their own: residual.py.
    rewritten: Mapping[int, NewWeights] = field(default_factory=dict)

    @property
    def changes(self) -> bool:
        """Whether anything in the graph becomes something else."""
        plan = self.plan
        return bool(plan.folds or plan.constants or plan.bypassed or self.rewritten)

    @property
    def flushed(self) -> int:
        """How many subnormal numbers became zero."""
        return sum(c.flushed for c in self._casts())

    @property
    def _new(self) -> list[NewWeights]:
        return [*self.weights.values(), *self.rewritten.values()]

    @cached_property
    def boundary(self) -> frozenset[str]:
        """The values that must be as they were although what makes them is changed.

        All others follow from these, and are worse to compare: an activation cuts a channel down to
        a few small values, of which rounding is a large part. What nobody reads may be anything.
        """
        altered, changed = self.plan.altered, self._changed
        read = self.graph.uses.keys() | self.graph.outputs
        return frozenset(
            name
            for index, op in enumerate(self.graph.ops)
            if index in changed or not altered.isdisjoint(op.inputs)
            for name in op.outputs
            if name not in altered and name in read
        )

    @property
    def _changed(self) -> frozenset[int]:
        """The calls that have other numbers, or go."""
        return self.plan.bypassed | set(self.plan.folds) | set(self.rewritten)

    @property
    def numbers(self) -> list[str]:
        """The stored numbers that these calls read in the original."""
        reads = (name for index in self._changed for name in self.graph.ops[index].inputs)
        return [name for name in reads if name and self.graph.is_constant(name)]

    @property
    def written(self) -> Mapping[int, frozenset[str]]:
        """The dtypes of what is written for each call that changes, by its place."""
        found: dict[int, set[str]] = {}
        for index, new in (*self.weights.items(), *self.rewritten.items()):
            numbers = [number for number in (new.weight, new.bias) if number is not None]
            found.setdefault(index, set()).update(number.array.dtype.name for number in numbers)
        for (index, _), number in self.constants.items():
            found.setdefault(index, set()).add(number.array.dtype.name)
        return {index: frozenset(names) for index, names in found.items()}

    def _casts(self) -> list[Cast]:
        pairs = [c for new in self._new for c in (new.weight, new.bias)]
        return [c for c in (*pairs, *self.constants.values()) if c is not None]


def solve(
    graph: Graph,
    keep: Sequence[str] = (),
    norms: Norms = Norms.BATCH,
    stay: Mapping[str, Stuck] | None = None,
) -> Solution:
    """Plan, compute, and plan again without what does not fit its dtype."""
    forbidden: dict[str, str] = {}
    while True:
        found = plan(graph, keep, forbidden, norms, stay)
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
    constants: Mapping[Place, Cast],
) -> dict[str, str]:
    """The normalisations that make some number too large, with the reason in words."""
    bad = {
        index
        for index, new in weights.items()
        if any(number is not None and number.overflows for number in (new.weight, new.bias))
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
    large = {place for place, number in constants.items() if number.overflows}
    passes = "a constant that it passes would exceed its dtype"
    return result or {n: passes for n, places in found.edits.items() if large.intersection(places)}


def _dtype(graph: Graph, op: Op) -> str:
    """The dtype of a call's parameters; a normalisation without any has its statistics'.

    One without these has its input's.
    """
    name = op.input(Slot.WEIGHT) or op.input(Slot.MEAN) or op.input(Slot.DATA)
    assert name is not None
    return graph.values[name].dtype


def _new_weights(graph: Graph, op: Op, fold: Absorbed) -> NewWeights:
    dtype = _dtype(graph, op)
    weight, bias = _only_scaled(graph, op, fold, dtype) or _computed(graph, op, fold, dtype)
    name = op.input(Slot.BIAS)
    bias_dtype = graph.values[name].dtype if name is not None else dtype
    plain = fold.bare and fold.after is None
    return NewWeights(weight, None if bias is None else cast(bias, bias_dtype), plain)


def _only_scaled(graph: Graph, op: Op, fold: Absorbed, dtype: str) -> _Computed | None:
    """The usual case, a convolution before its normalisation, without a copy of it in float64."""
    stored = graph.stored(op.input(Slot.WEIGHT))
    if stored is None or not isinstance(op.spec, Conv):
        return None
    if fold.after is None or fold.before or fold.beside:
        return None
    weight = scaled(stored, fold.after.scale.reshape(-1, *(1,) * (stored.ndim - 1)), dtype)
    return weight, scaled_bias(graph.constant(op.input(Slot.BIAS)), fold.after)


def _computed(graph: Graph, op: Op, fold: Absorbed, dtype: str) -> _Computed:
    weight, bias = graph.constant(op.input(Slot.WEIGHT)), graph.constant(op.input(Slot.BIAS))
    if has_computed_weight(graph, op):
        assert fold.after is not None
        return None, fold.after.shift
    if isinstance(op.spec, Rescaled) or (isinstance(op.spec, Norm) and op.spec.rescales):
        found = _rescaled(graph, op, weight, bias, fold)
        weight, bias = (_of_each_group(op.spec, numbers) for numbers in found)
        assert weight is not None
    elif isinstance(op.spec, Norm):
        weight, bias = _norm(graph, op, op.spec, fold)
    elif isinstance(op.spec, (Conv, ConvTranspose, Linear, Recurrent, Bilinear)):
        assert weight is not None
        weight, bias = _linear(_as_linear(op.spec, weight.ndim), weight, bias, fold)
    else:  # a table: its rows are its results
        assert weight is not None
        assert fold.after is not None
        weight = weight * fold.after.scale + fold.after.shift
    return cast(weight, dtype), bias


def _rescaled(
    graph: Graph, op: Op, weight: Floats | None, bias: Floats | None, fold: Absorbed
) -> _Numbers:
    """The product and the sum at the end of what normalises each sample."""
    if weight is None:
        known = graph.shape(op.outputs[0]) or ()
        weight = np.ones([int(known[axis]) for axis in channel_axes(op.spec)])
    if fold.bare:
        weight, bias = np.ones_like(weight), None if bias is None else np.zeros_like(bias)
    if fold.after is None:
        return weight, bias
    sizes = weight.shape
    after = each(fold.after, lambda numbers: numbers.reshape(sizes))
    return weight * after.scale, scaled_bias(bias, after)


def _of_each_group(spec: Spec, numbers: Floats | None) -> Floats | None:
    """One number for each group, where the channels of a group share one."""
    share = spec.share if isinstance(spec, Rescaled) else 1
    return numbers if numbers is None or share == 1 else numbers[::share]


def _as_linear(spec: LinearCall | Recurrent | Bilinear, rank: int) -> LinearCall:
    """What has the same kernel; a bilinear layer has a tap for each number of its other input."""
    if isinstance(spec, Recurrent):
        return Linear((*((None, axis) for axis in range(1 - rank, 0)), (-1, None)))
    return Conv(1, pads_with_zeros=False) if isinstance(spec, Bilinear) else spec


def _linear(spec: LinearCall, weight: Floats, bias: Floats | None, fold: Absorbed) -> _Numbers:
    kernel, shape = Kernel.of(spec, weight, bias), weight.shape
    if fold.after:
        kernel = kernel.after(fold.after)
    if fold.as_shuffle:
        assert isinstance(spec, ConvTranspose)
        kernel = kernel.as_tiles()
        spec, shape = Conv(spec.groups, False), (-1, kernel.weight.shape[2], *(1,) * len(shape[2:]))
    if fold.before:
        kernel = kernel.before(fold.before)
    if fold.beside:
        centre = spec.centre if isinstance(spec, Conv) else None
        tap = int(np.ravel_multi_index(centre, shape[2:])) if centre else 0
        kernel = kernel.beside(fold.beside, tap)
    return kernel.laid_out(spec, shape), kernel.laid_out_bias(spec, shape)


def _norm(graph: Graph, op: Op, spec: Norm, fold: Absorbed) -> _Numbers:
    """gamma and beta that give a normalisation another scale and shift, its statistics kept."""
    gamma, beta, mean, var = parameters_of(graph, op)
    assert mean is not None
    assert var is not None
    deviation = np.sqrt(var + spec.eps)
    whole = fold.applied_to(Affine(*norm_affine(gamma, beta, mean, var, spec.eps)))
    return whole.scale * deviation, whole.shift + mean * whole.scale


def _new_constant(graph: Graph, place: Place, edit: Affine) -> Cast:
    op = graph.ops[place[0]]
    name = op.inputs[place[1]]
    number = graph.constant(name)
    assert number is not None
    assert name is not None
    dtype = graph.values[op.outputs[0]].dtype
    return cast(edit.scale * number + edit.shift, dtype)
