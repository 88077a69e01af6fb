"""How a map passes a call that averages, takes the largest or pads: docs/folding.md, "Passing"."""

from __future__ import annotations

import numpy as np

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.maps import Stuck, collapsed, each
from bncheck.graph.dataflow import Graph, Op
from bncheck.graph.specs import Average, Maximum, Pad


def before_reduction(_: Graph, op: Op, affine: Affine) -> Affine:
    """The map of the input of an average or a maximum, from that of its result."""
    assert isinstance(op.spec, (Average, Maximum))
    if op.spec.drops:
        axes = sorted(op.spec.axes)
        affine = each(affine, lambda array: np.expand_dims(array, axes))
    gain = None if isinstance(op.spec, Maximum) else op.spec.gain
    return _reduced(op, affine, gain and 1.0 / gain)


def after_reduction(_: Graph, op: Op, affine: Affine) -> Affine:
    """The map of the result of an average or a maximum, from that of its input."""
    assert isinstance(op.spec, (Average, Maximum))
    axes = op.spec.axes
    affine = _reduced(op, affine, None if isinstance(op.spec, Maximum) else op.spec.gain)
    return each(affine, lambda array: np.squeeze(array, axes)) if op.spec.drops else affine


def _reduced(op: Op, affine: Affine, gain: float | None) -> Affine:
    """gain * mean(a x + t) = a (gain * mean(x)) + gain * t; max(a x + t) = a max(x) + t, a >= 0."""
    assert isinstance(op.spec, (Average, Maximum))
    affine = collapsed(affine, op.spec.axes, f"{op.label} ({op.kind}) mixes its channels")
    if isinstance(op.spec, Maximum):
        if np.any(affine.scale < 0):
            raise Stuck(
                f"{op.label} ({op.kind}) lies between and some scales are negative, which makes "
                "the largest the smallest",
                "the pooling behind the BatchNorm would let it be folded",
            )
        return affine
    if not affine.shifts:
        return affine
    if gain is None:
        raise Stuck(
            f"{op.label} ({op.kind}) lies between and does not weight all positions equally "
            "(it averages padded zeros, or sums an unknown number of values), so its shift "
            "does not pass",
            "without counting what is padded (count_include_pad=False, padding_mode='border'), or "
            "as a mean, it could be folded",
        )
    return Affine(affine.scale, affine.shift * gain)


def through_padding(_: Graph, op: Op, affine: Affine) -> Affine:
    """A map passes copies; a value that is padded with must be a fixed point, a p + t = p."""
    assert isinstance(op.spec, Pad)
    affine = collapsed(affine, op.spec.axes, f"{op.label} ({op.kind}) pads its channels")
    value = op.spec.value
    if value is not None and np.any(np.abs(affine.scale * value + affine.shift - value) > 0):
        raise Stuck(
            f"{op.label} ({op.kind}) lies between and pads with {value:g}, which its map "
            "would have to leave as it is",
            "padding with reflect, replicate or circular would let it be folded",
        )
    return affine
