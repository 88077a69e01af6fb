"""How a map passes a call that averages, takes the largest or pads: docs/folding.md, "Passing"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bncheck.folding.algebra import Affine, identity
from bncheck.folding.planner.cutting_and_joining import side_by_side
from bncheck.folding.planner.maps import (
    Stuck,
    before_repeating,
    collapsed,
    each,
    is_even,
    known_shape,
    merged,
    over_rank,
    shapes_of,
    spreads,
    unfit,
)
from bncheck.graph.dataflow import Graph, Op
from bncheck.graph.specs import Attended, Average, Maximum, Pad, RunningSum


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
    affine = collapsed(affine, op.spec.axes, f"{op.called} mixes its channels")
    if isinstance(op.spec, Maximum):
        check_order(op, affine)
        return affine
    if not affine.shifts:
        return affine
    if gain is None:
        raise _uneven(op)
    return Affine(affine.scale, affine.shift * gain)


def _uneven(op: Op) -> Stuck:
    """Why an average takes no shift."""
    assert isinstance(op.spec, Average)
    if isinstance(op.spec, Attended):
        return Stuck(
            f"{op.called} lies between and its mask may leave a query no key, so its shift does "
            "not pass",
            "store its mask as a buffer that leaves each query a key, or use is_causal",
            (op, replace(op.spec, gain=1.0)),
        )
    if isinstance(op.spec, RunningSum):
        why, hint = "sums a growing number of values", ""
    elif "sum" in op.kind.lower():
        why, hint = "sums an unknown number of values", f"make {op.called} a mean"
    elif "sample" in op.kind.lower():
        why, hint = "counts zeros beyond the border", f"give {op.called} padding_mode='border'"
    else:
        why, hint = "counts zeros beyond the border", f"give {op.called} count_include_pad=False"
    reason = f"{op.called} lies between and {why}, so its shift does not pass"
    return Stuck(reason, hint and f"{hint}, and train again", (op, replace(op.spec, gain=1.0)))


def check_order(op: Op, affine: Affine) -> None:
    """Raise where a map turns the order of numbers round."""
    if np.any(affine.scale < 0):
        raise Stuck(
            f"{op.called} lies between and some scales are negative, which turns the "
            "order of its numbers round"
        )


def before_larger(graph: Graph, op: Op, affine: Affine) -> list[Affine]:
    """a max(x, y) + t = max(a x + t, a y + t) for a >= 0."""
    check_order(op, affine)
    complaint = f"{op.called} repeats an operand along its channels"
    maps = []
    for name in op.inputs[:2]:
        shape, out = shapes_of(graph, name, op.outputs[0])
        if not spreads(shape, out):
            raise unfit(op)
        whole = graph.is_constant(name)
        maps.append(affine if whole else before_repeating(affine, shape, out, complaint))
    return maps


def after_larger(graph: Graph, op: Op, given: Mapping[int, Affine]) -> Affine:
    """The map that both operands have."""
    rank = len(known_shape(graph, op.outputs[0]))
    first, second = (over_rank(given.get(slot, identity(rank)), rank) for slot in (0, 1))
    both = merged(first, second)
    if both is None:
        raise Stuck(f"{op.called} compares it with what does not have its scale and shift")
    check_order(op, both)
    return both


def before_padding(_: Graph, op: Op, affine: Affine) -> Affine:
    """The map of what is padded, from that of the result: new channels must stay what they are."""
    for axis, (first, last) in _new_channels(op, affine):
        size = _size(affine, axis)
        _check_filling(op, _part(affine, axis, 0, first))
        _check_filling(op, _part(affine, axis, size - last, size))
        affine = _part(affine, axis, first, size - last)
    return _padded_places(op, affine)


def after_padding(_: Graph, op: Op, affine: Affine) -> Affine:
    """The map of the result: new channels take none."""
    affine = _padded_places(op, affine)
    for axis, (first, last) in _new_channels(op, affine):
        one, size = identity(affine.scale.ndim), _size(affine, axis)
        affine = side_by_side([one, affine, one], axis, [first, size, last])
    return affine


def _size(affine: Affine, axis: int) -> int:
    return int(np.broadcast_shapes(affine.scale.shape, affine.shift.shape)[axis])


def _part(affine: Affine, axis: int, start: int, end: int) -> Affine:
    return each(affine, lambda array: array.take(range(start, end), axis))


def _new_channels(op: Op, affine: Affine) -> list[tuple[int, tuple[int, int]]]:
    """The axes along which both the map varies and a value is padded with, and how often."""
    assert isinstance(op.spec, Pad)
    wide = [axis for axis in op.spec.axes if not is_even(affine, axis)]
    amounts = dict(zip(op.spec.axes, op.spec.amounts, strict=False))
    known = all(min(amounts.get(axis, (-1,))) >= 0 for axis in wide)
    if wide and (op.spec.value is None or not known):
        raise Stuck(f"{op.called} pads its channels")
    return [(axis, amounts[axis]) for axis in wide]


def _padded_places(op: Op, affine: Affine) -> Affine:
    """A map passes copies; a value that is padded with must be a fixed point."""
    assert isinstance(op.spec, Pad)
    if any(is_even(affine, axis) for axis in op.spec.axes):
        _check_filling(op, affine)
    return affine


def _check_filling(op: Op, affine: Affine) -> None:
    """Raise where a p + t is not p."""
    assert isinstance(op.spec, Pad)
    value = op.spec.value
    if value is not None and np.any(np.abs(affine.scale * value + affine.shift - value) > 0):
        raise Stuck(
            f"{op.called} lies between and pads with {value:g}, which its "
            "scale and shift would change",
            f"let {op.called} pad with reflect, replicate or circular, and train again",
            (op, replace(op.spec, value=None)),
        )
