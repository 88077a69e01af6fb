"""A call whose weight is computed from its input, such as a mixture of kernels: docs/folding.md,
"What a call absorbs".

    a (W(x) x + b) + t = (a W(x)) x + (a b + t)

The scale goes on into what computes the weight, and the shift into the bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.absorbing import output_channels, role_of
from bncheck.folding.planner.draft import Draft
from bncheck.folding.planner.maps import Stuck, each, unfit
from bncheck.folding.planner.normalisations import Slot, not_constant
from bncheck.folding.planner.plan import Absorbed
from bncheck.graph.dataflow import Floats, Graph, Op
from bncheck.graph.linear import Linear
from bncheck.graph.specs import Conv, ConvTranspose


@dataclass(frozen=True)
class Shares:
    """What each operand takes of a map of the result. `own`: what the call itself absorbs, where
    it has no bias yet."""

    weight: Affine
    bias: Affine
    own: Absorbed | None


def has_computed_weight(graph: Graph, op: Op) -> bool:
    """Whether a call has a weight that other calls make."""
    name = op.input(Slot.WEIGHT) if isinstance(op.spec, (Conv, ConvTranspose, Linear)) else None
    made = name is not None and name in graph.producers and not graph.is_constant(name)
    return made and not graph.values[name or ""].quantised


def computed(graph: Graph, op: Op) -> Stuck:
    """Why such a call absorbs nothing by itself."""
    name = op.inputs[Slot.WEIGHT]
    assert name is not None
    role = role_of(graph, op, Slot.WEIGHT)
    return not_constant(graph, name, f"{role} of {op.called}")


def shares_of_operands(draft: Draft, index: int, map_: Affine) -> Shares:
    """The maps of weight and bias that give the result this one."""
    graph, op = draft.graph, draft.graph.ops[index]
    vector = output_channels(graph, op, map_)
    scale = _over_weight(graph, op, vector)
    weight = Affine(scale, np.zeros_like(scale))
    fold, bias = draft.fold(index), op.input(Slot.BIAS)
    rank = len(graph.shape(bias) or (0,))
    factor = op.spec.beta if isinstance(op.spec, Linear) else 1.0
    last = not isinstance(op.spec, Linear) or op.spec.outputs == (-1,)
    if bias is not None and not (last and factor):
        raise computed(graph, op)
    whole = vector.after(fold.after) if fold.after else vector
    added = replace(fold, after=Affine(np.ones_like(whole.scale), whole.shift))
    own = added if bias is None and whole.shifts else None
    of_bias = Affine(vector.scale, vector.shift / factor)
    sizes = (*(1,) * (rank - 1), -1)
    return Shares(weight, each(of_bias, lambda numbers: numbers.reshape(sizes)), own)


def _over_weight(graph: Graph, op: Op, vector: Affine) -> Floats:
    """One number for each output channel as an array over the weight."""
    shape, axes = graph.shape(op.inputs[Slot.WEIGHT]) or (), _output_axes(op)
    sizes = [size for axis in axes if isinstance(size := shape[axis], int)]
    if not axes or len(sizes) < len(axes):
        raise computed(graph, op)
    if math.prod(sizes) != vector.scale.size:
        raise unfit(op)
    wide = vector.scale.reshape(sizes).transpose(np.argsort(axes))
    return np.expand_dims(wide, [axis for axis in range(len(shape)) if axis not in axes])


def _output_axes(op: Op) -> Sequence[int]:
    """The axes of a weight that are the output's channels, in their order."""
    if isinstance(op.spec, Linear):
        return [place for place in op.spec.order if op.spec.sides[place][1] is not None]
    if isinstance(op.spec, Conv):
        return [1 if op.spec.samples else 0]
    return [1] if isinstance(op.spec, ConvTranspose) and op.spec.groups == 1 else []
