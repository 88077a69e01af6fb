"""How an affine map moves through an operation that is not linear algebra.

`pull` moves it from an operation's output to its inputs, `push` from its inputs to its output.
Both raise Stuck, with a reason for people, where the result would not be exactly the same function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.maps import Stuck, collapsed, constant_along, each, is_even, shapes_of
from bncheck.folding.planner.parts import joined, part_of, parts_of, picked, picked_from, whole_of
from bncheck.folding.planner.reshaping import reshaped
from bncheck.graph.dataflow import (
    Average,
    Concat,
    Expand,
    Floats,
    Gather,
    Graph,
    Identity,
    Maximum,
    Op,
    Pad,
    PixelShuffle,
    Rectifier,
    Reshape,
    Split,
    Transpose,
)


def pull(graph: Graph, op: Op, wanted: Sequence[Affine]) -> list[Affine]:
    """The maps that the inputs must take so that output i takes `wanted[i]`."""
    affine, spec = wanted[0], op.spec
    if isinstance(spec, Concat):
        return parts_of(graph, op, affine)
    if isinstance(spec, Split):
        return [whole_of(graph, op, wanted)]
    if isinstance(spec, (Reshape, Expand)):
        if isinstance(spec, Expand):
            affine = _unexpanded(graph, op, affine)
        out, into = shapes_of(graph, op.outputs[0], op.inputs[0])
        return [each(affine, lambda array: reshaped(array, out, into))]
    if isinstance(spec, Gather):
        return [picked_from(graph, op, affine)]
    if isinstance(spec, Transpose):
        return [each(affine, lambda array: array.transpose(np.argsort(spec.order)))]
    if isinstance(spec, (Average, Maximum)):
        if spec.drops:
            affine = each(affine, lambda array: np.expand_dims(array, sorted(spec.axes)))
        return [_reduced(op, affine, backwards=True)]
    if isinstance(spec, PixelShuffle):
        return [_shuffled(op, affine, splits=not spec.inverse)]
    return [_same_shape(op, affine)]


def push(graph: Graph, op: Op, given: Mapping[int, Affine]) -> list[Affine]:
    """The maps that the outputs take when input i (by slot) takes `given[i]`."""
    spec = op.spec
    if isinstance(spec, Concat):
        return [joined(graph, op, given)]
    if set(given) != {0}:
        raise Stuck(f"it is more than the data of {op.label} ({op.kind})")
    affine = given[0]
    if isinstance(spec, Split):
        return [part_of(op, affine, part) for part in spec.parts]
    if isinstance(spec, (Reshape, Expand)):
        into, out = shapes_of(graph, op.inputs[0], op.outputs[0])
        if isinstance(spec, Expand):
            more = (1,) * (len(out) - len(into))
            return [each(affine, lambda array: array.reshape(more + array.shape))]
        return [each(affine, lambda array: reshaped(array, into, out))]
    if isinstance(spec, Gather):
        return [picked(op, affine)]
    if isinstance(spec, Transpose):
        return [each(affine, lambda array: array.transpose(spec.order))]
    if isinstance(spec, (Average, Maximum)):
        affine = _reduced(op, affine, backwards=False)
        if spec.drops:
            affine = each(affine, lambda array: np.squeeze(array, spec.axes))
        return [affine]
    if isinstance(spec, PixelShuffle):
        return [_shuffled(op, affine, splits=spec.inverse)]
    return [_same_shape(op, affine)]


def _same_shape(op: Op, affine: Affine) -> Affine:
    spec = op.spec
    if isinstance(spec, Identity):
        return affine
    if isinstance(spec, Pad):
        return _padded(op, spec, affine)
    if isinstance(spec, Rectifier):
        if affine.shifts or np.any(affine.scale < 0):
            raise Stuck(
                f"{op.label} ({spec.name}) lies between, and only a positive scale without a "
                "shift passes through it",
                "the BatchNorm between the convolution and the activation would let it be folded",
            )
        return affine
    raise Stuck(
        f"{op.label} ({op.kind}) lies between, which no affine map passes through",
        "next to a convolution or linear layer it could be folded",
    )


def _reduced(op: Op, affine: Affine, *, backwards: bool) -> Affine:
    spec = op.spec
    assert isinstance(spec, (Average, Maximum))
    affine = collapsed(affine, spec.axes, f"{op.label} ({op.kind}) mixes its channels")
    if isinstance(spec, Maximum):
        if np.any(affine.scale < 0):
            raise Stuck(
                f"{op.label} ({op.kind}) lies between and some scales are negative, which makes "
                "the largest the smallest",
                "the pooling behind the BatchNorm would let it be folded",
            )
        return affine
    if not affine.shifts:
        return affine
    if spec.gain is None:
        raise Stuck(
            f"{op.label} ({op.kind}) lies between and does not weigh all places alike (it averages "
            "padded zeros, or sums up a number of values that is not known), so its shift does not "
            "pass",
            "without counting what is padded (count_include_pad=False, padding_mode='border'), or "
            "as a mean, it could be folded",
        )
    # gain * mean(a x + t) = a (gain * mean(x)) + gain * t
    gain = 1.0 / spec.gain if backwards else spec.gain
    return Affine(affine.scale, affine.shift * gain)


def _padded(op: Op, spec: Pad, affine: Affine) -> Affine:
    affine = collapsed(affine, spec.axes, f"{op.label} ({op.kind}) pads its channels")
    if spec.value is not None:
        value = spec.value
        if np.any(np.abs(affine.scale * value + affine.shift - value) > 0):
            raise Stuck(
                f"{op.label} ({op.kind}) lies between and pads with {value:g}, which its map "
                "would have to leave as it is",
                "padding with reflect, replicate or circular would let it be folded",
            )
    return affine


def _shuffled(op: Op, affine: Affine, *, splits: bool) -> Affine:
    """(N, C, 1, 1) <-> (N, C*r*r, 1, 1): all places of a block share their channel's map."""
    spec = op.spec
    assert isinstance(spec, PixelShuffle)
    affine = collapsed(affine, (2, 3), f"{op.label} ({op.kind}) moves positions")
    if is_even(affine, 1):
        return affine
    block = spec.factor**2
    if splits:
        if spec.depth_last:
            return each(affine, lambda array: np.tile(array, (1, block, 1, 1)))
        return each(affine, lambda array: np.repeat(array, block, axis=1))

    def blocks(array: Floats) -> Floats:
        sizes = (block, -1) if spec.depth_last else (-1, block)
        grouped = array.reshape(array.shape[0], *sizes, 1, 1)
        axis = 1 if spec.depth_last else 2
        small = constant_along(grouped, (axis,))
        if small is None:
            raise Stuck(f"{op.label} ({op.kind}) mixes its channels")
        return np.squeeze(small, axis)

    return each(affine, blocks)


def _unexpanded(graph: Graph, op: Op, affine: Affine) -> Affine:
    out, into = shapes_of(graph, op.outputs[0], op.inputs[0])
    more = len(out) - len(into)
    repeated = [i for i, size in enumerate(out) if i < more or into[i - more] != size]
    affine = collapsed(affine, repeated, f"{op.label} ({op.kind}) repeats its channels")
    return each(affine, lambda array: array.reshape(array.shape[more:]))
