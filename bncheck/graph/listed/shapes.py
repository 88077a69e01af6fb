"""Shapes where a file gives none, as far as means need them: ranks and numbers of channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from bncheck.graph import specs
from bncheck.graph.convolutions import each
from bncheck.graph.dataflow import Dim, Shape
from bncheck.graph.linear import Linear
from bncheck.graph.listed.call import ReadCall

UNKNOWN: Final = "?"
#: What keeps the shape of its first input.
_ALIKE: Final = (
    specs.Norm, specs.Rescaled, specs.Identity, specs.Pointwise, specs.Bounded, specs.Rectifier,
)  # fmt: skip


def input_shape(call: ReadCall) -> Shape | None:
    """The shape that the source of a call must have, where only its weight tells."""
    weight = call("weight")
    if call.name.startswith(("conv", "_conv")) and call.named_sizes(weight):
        return (UNKNOWN,) * len(call.sizes(weight))
    return (UNKNOWN, UNKNOWN) if call.name == "linear" else None


def piece_shapes(call: ReadCall) -> list[Shape] | None:
    """Those of the results of chunk and split, where the size of the axis is known."""
    shape = call.named_sizes(call.source)
    axis = call("dim")
    if not shape or not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
        return None
    axis %= len(shape)
    sizes = _pieces(call, shape[axis])
    if sizes is None or len(sizes) != len(call.results):
        return None
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]


def _pieces(call: ReadCall, size: Dim) -> list[int] | None:
    given = call.first("chunks", "split_size", "split_sizes")
    if isinstance(given, tuple):
        return list(given) if all(isinstance(item, int) for item in given) else None
    if not isinstance(size, int) or not isinstance(given, int) or given < 1:
        return None
    step = -(-size // given) if call("chunks") is not None else given
    if not step or size > step * len(call.results):
        return None
    return [min(step, size - start) for start in range(0, size, step)]


def result_shape(call: ReadCall, spec: specs.Spec, inputs: Sequence[Any]) -> Shape | None:
    """The shape of what a call makes; None where it is not known."""
    shapes = [call.named_sizes(item) for item in inputs]
    first = shapes[0] if shapes else None
    if isinstance(spec, (specs.Add, specs.Mul)):
        return _broadcast([shape or () for shape in shapes]) if first or shapes[1:] else None
    if first is None:
        return None
    if isinstance(spec, _ALIKE):
        return first
    if isinstance(spec, (specs.Conv, specs.ConvTranspose, Linear)):
        return _mapped(spec, first, shapes[1])
    if isinstance(spec, specs.Concat):
        return None if spec.stacks else _joined(spec.axis, shapes)
    if isinstance(spec, (specs.Average, specs.Maximum)):
        return _reduced(call, spec, first)
    if isinstance(spec, specs.Transpose):
        return tuple(first[axis] for axis in spec.order)
    if isinstance(spec, specs.Pad):
        return _padded(spec, first)
    if isinstance(spec, specs.Split):
        return _cut(spec, first)
    if isinstance(spec, specs.PixelShuffle):
        return _shuffled(spec, first)
    return _reshaped(call, first) if isinstance(spec, specs.Reshape) else None


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    rank = max(len(shape) for shape in shapes)
    aligned = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(_common(sizes) for sizes in zip(*aligned, strict=True))


def _common(sizes: Sequence[Dim]) -> Dim:
    larger = [size for size in sizes if isinstance(size, int) and size != 1]
    return larger[0] if larger else (1 if all(size == 1 for size in sizes) else UNKNOWN)


def _mapped(
    spec: specs.Conv | specs.ConvTranspose | Linear, shape: Shape, weight: Shape | None
) -> Shape | None:
    if weight is None:
        return None
    if isinstance(spec, Linear):
        return _multiplied(spec, shape, weight)
    size = weight[0]
    if isinstance(spec, specs.ConvTranspose):
        size = weight[1] * spec.groups if isinstance(weight[1], int) else UNKNOWN
    return (shape[0], size, *(UNKNOWN for _ in weight[2:]))


def _multiplied(spec: Linear, shape: Shape, weight: Shape) -> Shape | None:
    """The axes of x that are not the weight's, in their order, around those of the weight."""
    own = {axis % len(shape) for axis in spec.inputs}
    rest = [size for axis, size in enumerate(shape) if axis not in own]
    sizes = {o: size for (_, o), size in zip(spec.sides, weight, strict=False) if o is not None}
    rank = len(rest) + len(sizes)
    return tuple(sizes.get(axis - rank) or rest.pop(0) for axis in range(rank))


def _joined(axis: int, shapes: Sequence[Shape | None]) -> Shape | None:
    known = [shape for shape in shapes if shape is not None]
    sizes = [shape[axis] for shape in known]
    if len(known) < len(shapes):
        return None
    numbers = [size for size in sizes if isinstance(size, int)]
    total: Dim = sum(numbers) if len(numbers) == len(sizes) else UNKNOWN
    return (*known[0][:axis], total, *known[0][axis + 1 :])


def _reduced(call: ReadCall, spec: specs.Average | specs.Maximum, shape: Shape) -> Shape:
    axes = {axis % len(shape) for axis in spec.axes}
    if spec.drops:
        return tuple(size for axis, size in enumerate(shape) if axis not in axes)
    given = call("output_size", call.args[1] if "adaptive" in call.name and call.args[1:] else None)
    sizes: list[Any] = [UNKNOWN] * len(axes)
    if "adaptive" in call.name and given is not None:
        sizes = [*each(given, len(axes))]
    elif call("keepdim"):
        sizes = [1] * len(axes)
    places = dict(zip(sorted(axes), sizes, strict=False))
    whole = (places.get(axis, size) for axis, size in enumerate(shape))
    return tuple(size if isinstance(size, int) else UNKNOWN for size in whole)


def _padded(spec: specs.Pad, shape: Shape) -> Shape:
    added = {axis: sum(pair) for axis, pair in zip(spec.axes, spec.amounts, strict=False)}
    return tuple(
        UNKNOWN if axis in spec.axes and (axis not in added or isinstance(size, str))
        else size + added.get(axis, 0) if isinstance(size, int) else size
        for axis, size in enumerate(shape)
    )  # fmt: skip


def _cut(spec: specs.Split, shape: Shape) -> Shape:
    """The shape of the first part."""
    size, part = shape[spec.axis], spec.parts[0]
    left: Dim = len(range(size)[part]) if isinstance(size, int) else UNKNOWN
    middle = () if spec.drops else (left,)
    return (*shape[: spec.axis], *middle, *shape[spec.axis + 1 :])


def _shuffled(spec: specs.PixelShuffle, shape: Shape) -> Shape | None:
    if len(shape) != 4 or not isinstance(shape[1], int):
        return None
    square = spec.factor**2
    channels = shape[1] * square if spec.inverse else shape[1] // square
    return (shape[0], channels, UNKNOWN, UNKNOWN)


def _reshaped(call: ReadCall, shape: Shape) -> Shape | None:
    """Flattened, or in given sizes of which at most one is -1; the first axis is the batch's."""
    if call.name == "flatten":
        start, end = (call.whole(name) % len(shape) for name in ("start_dim", "end_dim"))
        return (*shape[:start], _product(shape[start : end + 1]), *shape[end + 1 :])
    given = call.first("size", "shape")
    if call.name not in ("view", "reshape") or not isinstance(given, tuple) or len(given) < 2:
        return None
    rest = _product([size for size in given[1:] if size != -1])
    whole = _product(shape[1:])
    if not isinstance(rest, int) or not isinstance(whole, int) or not rest or whole % rest:
        return None
    if given[0] == -1 and whole != rest:  # the batch takes part
        return None
    return (shape[0], *(whole // rest if size == -1 else size for size in given[1:]))


def _product(sizes: Sequence[Any]) -> Dim:
    numbers = [size for size in sizes if isinstance(size, int)]
    return math.prod(numbers) if len(numbers) == len(sizes) else UNKNOWN
