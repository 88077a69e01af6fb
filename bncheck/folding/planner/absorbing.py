"""Where a map ends: a call with weights takes it over, one number per channel.

docs/folding.md, "What a call absorbs". The new numbers are computed in folding/weights.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.draft import Draft, Moving, Step
from bncheck.folding.planner.maps import Stuck, collapsed, settled
from bncheck.folding.planner.normalisations import Slot, not_constant
from bncheck.folding.planner.plan import Absorbed
from bncheck.graph.dataflow import Graph, Op
from bncheck.graph.specs import Bilinear, Conv, ConvTranspose, Linear, Lookup, Recurrent, Rescaled


def absorbed_after(draft: Draft, index: int, map_: Affine) -> Absorbed:
    """What a call absorbs when its result is to take a map."""
    op = draft.graph.ops[index]
    _check_constant(draft.graph, op)
    fold, vector = draft.fold(index), output_channels(draft.graph, op, map_)
    if isinstance(op.spec, Rescaled) and vector.shifts and not op.spec.shifts:
        raise Stuck(f"{op.label} ({op.kind}) has no place for its shift")
    return replace(fold, after=vector.after(fold.after) if fold.after else vector)


def absorbed_before(draft: Draft, index: int, map_: Affine) -> Absorbed:
    """What a call absorbs when its input no longer takes a map."""
    op = draft.graph.ops[index]
    _check_constant(draft.graph, op)
    fold = draft.fold(index)
    vector = _channels(draft.graph, op, op.inputs[0], map_, _channel_axes(draft.graph, op)[0])
    if isinstance(op.spec, Recurrent) and vector.shifts and not op.spec.shifts:
        raise Stuck(f"{op.label} ({op.kind}) has no bias for its shift")
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
    return _channels(graph, op, op.outputs[0], map_, _channel_axes(graph, op)[1])


def _check_constant(graph: Graph, op: Op) -> None:
    for slot, role in ((Slot.WEIGHT, "weight"), (Slot.BIAS, "bias")):
        name = op.input(slot)
        if name is not None and not graph.is_constant(name):
            raise not_constant(graph, name, f"the {role} of {op.label} ({op.kind})")


def _channel_axes(graph: Graph, op: Op) -> tuple[int, int]:
    """Where a call has its channels, from the end: in its input, and in its result."""
    if isinstance(op.spec, Linear):
        return op.spec.axes
    if isinstance(op.spec, (Lookup, Recurrent, Bilinear)):
        return -1, -1
    if isinstance(op.spec, Rescaled):
        return op.spec.axis, op.spec.axis
    is_conv = isinstance(op.spec, (Conv, ConvTranspose))
    weight = graph.shape(op.inputs[Slot.WEIGHT]) if is_conv else None
    rank = len(weight or graph.shape(op.outputs[0]) or ())
    return 1 - rank, 1 - rank  # a convolution takes an image without a batch, too


def _channels(graph: Graph, op: Op, name: str | None, map_: Affine, axis: int) -> Affine:
    """A map that differs along one axis only, as two vectors of that axis' size."""
    shape = graph.shape(name)
    if shape is None:
        raise Stuck("the shapes around it are not known")
    axis %= len(shape)
    what = "features" if isinstance(op.spec, (Linear, Lookup, Recurrent, Bilinear)) else "channels"
    try:
        small = settled(collapsed(map_, [i for i in range(len(shape)) if i != axis], ""))
    except Stuck:
        raise Stuck(
            f"its parameters do not run along the {what} of {op.label} ({op.kind})",
            f"with a transpose in between, so that it normalises the {what}, it could be folded",
        ) from None
    size = shape[axis]
    if not isinstance(size, int):
        raise Stuck(f"the number of {what} of {op.label} ({op.kind}) is not known")
    return Affine(
        np.broadcast_to(small.scale.reshape(-1), (size,)),
        np.broadcast_to(small.shift.reshape(-1), (size,)),
    )


def _shift_needs_shuffle(op: Op) -> bool:
    """Whether a shift before this call needs it to become a convolution and a pixel shuffle."""
    spec = op.spec
    if isinstance(spec, Conv) and spec.pads_with_zeros:
        raise Stuck(
            f"{op.label} ({op.kind}) pads with zeros, which its shift does not reach",
            "no padding, or padding_mode='reflect', would let it be folded",
        )
    if isinstance(spec, ConvTranspose):
        if not spec.tiles:
            raise Stuck(
                f"the windows of {op.label} ({op.kind}) overlap or are cut, so its shift would "
                "not reach every output alike",
                "a kernel_size equal to the stride, without padding, would let it be folded",
            )
        return any(step != 1 for step in spec.stride)
    return False
