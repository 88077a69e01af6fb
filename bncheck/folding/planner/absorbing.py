"""Where a map ends: a call with weights takes it over, one number per channel.

docs/folding.md, "What a call absorbs". The new numbers are computed in folding/weights.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.draft import Draft, Moving, Step
from bncheck.folding.planner.maps import UNKNOWN, Stuck, collapsed, each, free_size, settled, unfit
from bncheck.folding.planner.normalisations import Slot, not_constant
from bncheck.folding.planner.plan import Absorbed
from bncheck.graph.dataflow import Floats, Graph, Op
from bncheck.graph.linear import Linear
from bncheck.graph.specs import (
    Bilinear,
    Conv,
    ConvTranspose,
    Lookup,
    Norm,
    Recurrent,
    Rescaled,
)
from bncheck.graph.weighted import Axes, Weighted

_OTHERS = {Bilinear: "the second input", Recurrent: "a state"}
#: Products whose second operand people call the weight.
_WITH_BIAS = ("linear", "addmm", "Gemm")


def absorbed_after(draft: Draft, index: int, map_: Affine) -> Absorbed:
    """What a call absorbs when its result is to take a map."""
    op = draft.graph.ops[index]
    _check_constant(draft.graph, op)
    fold, vector = draft.fold(index), output_channels(draft.graph, op, map_)
    _check_sizes(draft.graph, op, vector, 1)
    if isinstance(op.spec, Rescaled) and vector.shifts and not op.spec.shifts:
        raise Stuck(f"{op.called} has no place for its shift")
    if isinstance(op.spec, Rescaled) and not _is_shared(vector, op.spec.share):
        raise Stuck(f"{op.called} has one number for each group, not for each channel")
    if isinstance(op.spec, Lookup):
        _check_rows(op, op.spec, vector)
        vector = Affine(vector.scale, vector.shift / op.spec.rows)
    return replace(fold, after=vector.after(fold.after) if fold.after else vector)


def _is_shared(vector: Affine, share: int) -> bool:
    """Whether the map is the same for all channels of a group; a group has `share` of them."""
    rows = (numbers.reshape(-1, share) for numbers in (vector.scale, vector.shift))
    return all(np.array_equal(row, np.broadcast_to(row[:, :1], row.shape)) for row in rows)


def _check_rows(op: Op, spec: Lookup, vector: Affine) -> None:
    """Raise where rows do not take the map of what is made of several of them."""
    if vector.shifts and spec.uneven:
        raise Stuck(
            f"{op.called} {spec.uneven}, so its shift does not pass",
            f"give {op.called} bags of one fixed size, without padding_idx or weights",
        )
    if spec.orders and np.any(vector.scale < 0):
        raise Stuck(f"{op.called} takes the largest of several rows and some scales are negative")


def absorbed_before(draft: Draft, index: int, map_: Affine) -> Absorbed:
    """What a call absorbs when its input no longer takes a map."""
    op = draft.graph.ops[index]
    _check_constant(draft.graph, op)
    fold = draft.fold(index)
    vector = _channels(draft.graph, op, op.inputs[0], map_, _axes(draft.graph, op)[0])
    _check_sizes(draft.graph, op, vector, 0)
    if isinstance(op.spec, Recurrent) and vector.shifts and not op.spec.shifts:
        raise Stuck(f"{op.called} has no bias for its shift")
    if isinstance(op.spec, Bilinear) and vector.shifts:
        raise Stuck(f"{op.called} multiplies it with its other input, which no shift passes")
    before = fold.before.after(vector) if fold.before else vector
    shuffles = before.shifts and _shift_needs_shuffle(op)
    return replace(fold, before=before, as_shuffle=fold.as_shuffle or shuffles)


def with_plain_weight(draft: Draft, moving: Moving, _: bool = False) -> Step:
    """What a Weight or Spectral Norm computes becomes a parameter: docs/folding.md, "All norms"."""
    index = moving.norm.last
    _check_constant(draft.graph, draft.graph.ops[index])
    return Step(folds={index: draft.fold(index)}, into=[index])


def output_channels(graph: Graph, op: Op, map_: Affine) -> Affine:
    """A map of a call's result as two vectors over its channels; Stuck where it is not one."""
    return _channels(graph, op, op.outputs[0], map_, _axes(graph, op)[1])


def role_of(graph: Graph, op: Op, slot: int) -> str:
    """What people call an operand of a call with a weight."""
    if slot > Slot.BIAS and not isinstance(op.spec, Norm):
        return _OTHERS.get(type(op.spec), "a setting")
    if slot == Slot.WEIGHT and isinstance(op.spec, Linear) and op.kind not in _WITH_BIAS:
        return "an operand"
    if slot == Slot.WEIGHT and isinstance(op.spec, Linear) and graph.is_constant(op.inputs[0]):
        return "the second operand"
    return ("the data", "the weight", "the bias", "the running mean", "the running variance")[slot]


def _check_constant(graph: Graph, op: Op) -> None:
    for slot in (Slot.WEIGHT, Slot.BIAS):
        name = op.input(slot)
        if name is not None and not graph.is_constant(name):
            raise not_constant(graph, name, f"{role_of(graph, op, slot)} of {op.called}")


def _check_sizes(graph: Graph, op: Op, vector: Affine, side: int) -> None:
    """Raise where a file gives a call a weight of a size that is not that of its input (0) or of
    its result (1)."""
    weight, bias = (graph.shape(op.input(slot)) for slot in (Slot.WEIGHT, Slot.BIAS))
    sizes = [size for size in weight or () if isinstance(size, int)]
    if weight is None or len(sizes) != len(weight):
        return
    known = _weighted(op).channels_of(sizes)
    fits = known is None or known[side] == vector.scale.size
    if known is not None and bias:
        single = bias[-1] if isinstance(op.spec, Linear) else math.prod(map(int, bias))
        fits &= single in (known[1], 1)
    if not fits:
        raise unfit(op)


def _weighted(op: Op) -> Weighted:
    assert isinstance(op.spec, Weighted)
    return op.spec


def _axes(graph: Graph, op: Op) -> tuple[Axes, Axes]:
    weight, result = (graph.shape(name) or () for name in (op.input(Slot.WEIGHT), op.outputs[0]))
    return _weighted(op).axes_of(len(weight), len(result))


def _channels(graph: Graph, op: Op, name: str | None, map_: Affine, axes: Axes) -> Affine:
    """A map that differs along these axes only, as two vectors of their size."""
    shape = graph.shape(name)
    if shape is None:
        raise Stuck("the shapes around it are not known", UNKNOWN)
    axes = tuple(axis % len(shape) for axis in axes)
    what = _weighted(op).unit
    try:
        small = settled(collapsed(map_, [i for i in range(len(shape)) if i not in axes], ""))
    except Stuck:
        wide = [n for n in np.broadcast_shapes(map_.scale.shape, map_.shift.shape) if n > 1]
        raise Stuck(
            f"at {op.called} its numbers differ along other axes than the {what}",
            f"transpose its input so that it normalises the {what}, and train again"
            if len(wide) == 1
            else "",
        ) from None
    sizes = [size for size in (shape[axis] for axis in axes) if isinstance(size, int)]
    if len(sizes) != len(axes):
        raise free_size(f"the number of {what} of {op.called} is not known")
    order = [*axes, *(i for i in range(len(shape)) if i not in axes)]

    def vector(numbers: Floats) -> Floats:
        at = numbers.transpose(order).reshape(numbers.transpose(order).shape[: len(axes)])
        return np.broadcast_to(at, sizes).reshape(-1)

    return each(small, vector)


def _shift_needs_shuffle(op: Op) -> bool:
    """Whether a shift before this call needs it to become a convolution and a pixel shuffle."""
    spec = op.spec
    if isinstance(spec, Conv) and spec.pads_with_zeros:
        raise Stuck(
            f"{op.called} pads with zeros, which its shift does not reach",
            f"give {op.called} padding_mode='reflect', and train again",
            (op, replace(spec, pads_with_zeros=False)),
        )
    if isinstance(spec, ConvTranspose):
        if not spec.tiles:
            raise Stuck(
                f"the windows of {op.called} overlap or are cut, or leave gaps, so its "
                "shift would not reach every output alike",
                f"give {op.called} a kernel_size that is its stride, without padding, and train "
                "again",
                (op, replace(spec, tiles=True)),
            )
        return any(step != 1 for step in spec.stride)
    return False
