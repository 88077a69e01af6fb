"""How an affine map moves through an operation that is not linear algebra.

`pull` moves it from an operation's output to its inputs, `push` from its inputs to its output.
Both raise Stuck, with a reason for people, where the result would not be exactly the same function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bncheck.folding.algebra import Affine, identity
from bncheck.folding.dataflow import (
    Average,
    Concat,
    Expand,
    Flip,
    Floats,
    Graph,
    Identity,
    Maximum,
    Op,
    Pad,
    PixelShuffle,
    Rectifier,
    Reshape,
    Shape,
    Split,
    Transpose,
)

#: Maps larger than this (in numbers) are not worth carrying: one per element of a feature map.
_MAX_SIZE = 1 << 24
_COEFFICIENT = re.compile(r"\d+")
_SYMBOL = re.compile(r"[A-Za-z_]\w*")


class Stuck(Exception):
    """A map can go no further: why, and what would have to change in the model."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def pull(graph: Graph, op: Op, wanted: Sequence[Affine]) -> list[Affine]:
    """The maps that the inputs must take so that output i takes `wanted[i]`."""
    affine, spec = wanted[0], op.spec
    if isinstance(spec, Concat):
        return _parts(graph, op, affine)
    if isinstance(spec, Split):
        return [_joined(graph, op, wanted)]
    if isinstance(spec, (Reshape, Expand)):
        if isinstance(spec, Expand):
            affine = _unexpanded(graph, op, affine)
        out, into = _shapes(graph, op.outputs[0], op.inputs[0])
        return [_each(affine, lambda array: reshaped(array, out, into))]
    if isinstance(spec, Transpose):
        return [_each(affine, lambda array: array.transpose(np.argsort(spec.order)))]
    if isinstance(spec, (Average, Maximum)):
        if spec.drops:
            affine = _each(affine, lambda array: np.expand_dims(array, sorted(spec.axes)))
        return [_reduced(op, affine)]
    if isinstance(spec, PixelShuffle):
        return [_shuffled(op, affine, spec.factor, splits=not spec.inverse)]
    return [_same_shape(graph, op, affine)]


def push(graph: Graph, op: Op, given: Mapping[int, Affine]) -> list[Affine]:
    """The maps that the outputs take when input i (by slot) takes `given[i]`."""
    spec = op.spec
    if isinstance(spec, Concat):
        return [_concatenated(graph, op, given)]
    if set(given) != {0}:
        raise Stuck(f"it is more than the data of {op.label} ({op.kind})")
    affine = given[0]
    if isinstance(spec, Split):
        return [_part(graph, op, affine, part) for part in spec.parts]
    if isinstance(spec, (Reshape, Expand)):
        into, out = _shapes(graph, op.inputs[0], op.outputs[0])
        if isinstance(spec, Expand):
            more = (1,) * (len(out) - len(into))
            return [_each(affine, lambda array: array.reshape(more + array.shape))]
        return [_each(affine, lambda array: reshaped(array, into, out))]
    if isinstance(spec, Transpose):
        return [_each(affine, lambda array: array.transpose(spec.order))]
    if isinstance(spec, (Average, Maximum)):
        affine = _reduced(op, affine)
        if spec.drops:
            affine = _each(affine, lambda array: np.squeeze(array, spec.axes))
        return [affine]
    if isinstance(spec, PixelShuffle):
        return [_shuffled(op, affine, spec.factor, splits=spec.inverse)]
    return [_same_shape(graph, op, affine)]


def _same_shape(graph: Graph, op: Op, affine: Affine) -> Affine:
    spec = op.spec
    if isinstance(spec, Identity):
        return affine
    if isinstance(spec, Flip):
        return _each(affine, lambda array: np.flip(array, spec.axes))
    if isinstance(spec, Pad):
        return _padded(op, spec, affine)
    if isinstance(spec, Rectifier):
        if affine.shifts or np.any(affine.scale < 0):
            raise Stuck(
                f"{op.label} ({spec.name}) lies between, and only a positive scale without a "
                "shift passes through it"
            )
        return affine
    raise Stuck(f"{op.label} ({op.kind}) lies between, which no affine map passes through")


def _each(affine: Affine, change: Callable[[Floats], Floats]) -> Affine:
    scale, shift = np.broadcast_arrays(affine.scale, affine.shift)
    return Affine(change(scale), change(shift))


def _shapes(graph: Graph, first: str | None, second: str | None) -> tuple[Shape, Shape]:
    shapes = graph.shape(first), graph.shape(second)
    if shapes[0] is None or shapes[1] is None:
        raise Stuck("the shapes around it are not known")
    return shapes[0], shapes[1]


def constant_along(array: Floats, axes: Sequence[int]) -> Floats | None:
    """`array` with these axes reduced to size 1, or None where its numbers differ along them."""
    for axis in axes:
        if array.shape[axis] == 1:
            continue
        free = np.isnan(array)
        first = np.take_along_axis(array, np.argmin(free, axis, keepdims=True), axis)
        if not np.all(free | (array == first)):
            return None
        array = first
    return array


def collapsed(affine: Affine, axes: Sequence[int], complaint: str) -> Affine:
    """The map with these axes reduced to size 1."""
    scale, shift = np.broadcast_arrays(affine.scale, affine.shift)
    small = constant_along(scale, axes), constant_along(shift, axes)
    if small[0] is None or small[1] is None:
        raise Stuck(complaint)
    return Affine(small[0], small[1])


def _is_even(affine: Affine, axis: int) -> bool:
    """Whether a map does not know how long that axis is."""
    return bool(affine.scale.shape[axis] == 1 and affine.shift.shape[axis] == 1)


def _reduced(op: Op, affine: Affine) -> Affine:
    spec = op.spec
    assert isinstance(spec, (Average, Maximum))
    affine = collapsed(affine, spec.axes, f"{op.label} ({op.kind}) mixes its channels")
    if isinstance(spec, Maximum) and np.any(affine.scale < 0):
        raise Stuck(f"{op.label} ({op.kind}) lies between and some scales are negative")
    if isinstance(spec, Average) and spec.counts_zeros and affine.shifts:
        raise Stuck(
            f"{op.label} ({op.kind}) lies between and averages padded zeros, which its shift "
            "does not reach",
            "count_include_pad=False would let it be folded",
        )
    return affine


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


def _axis_sizes(graph: Graph, op: Op, axis: int) -> list[int]:
    sizes = []
    for name in op.inputs:
        shape = graph.shape(name)
        if shape is None or not isinstance(size := shape[axis], int):
            raise Stuck(f"{op.label} ({op.kind}) joins parts of unknown size")
        sizes.append(size)
    return sizes


def _parts(graph: Graph, op: Op, affine: Affine) -> list[Affine]:
    assert isinstance(op.spec, Concat)
    axis = op.spec.axis
    if _is_even(affine, axis):
        return [affine] * len(op.inputs)
    ends = np.cumsum(_axis_sizes(graph, op, axis))[:-1]
    scale, shift = np.broadcast_arrays(affine.scale, affine.shift)
    pairs = zip(np.split(scale, ends, axis), np.split(shift, ends, axis), strict=True)
    return [Affine(*pair) for pair in pairs]


def _concatenated(graph: Graph, op: Op, given: Mapping[int, Affine]) -> Affine:
    assert isinstance(op.spec, Concat)
    axis = op.spec.axis
    one = identity(next(iter(given.values())).scale.ndim)
    maps = [given.get(slot, one) for slot in range(len(op.inputs))]
    if all(_is_even(m, axis) and same(maps[0], m) for m in maps):
        return maps[0]
    sizes = _axis_sizes(graph, op, axis)
    pairs = zip(maps, sizes, strict=True)
    rows = [[_filled(m.scale, axis, n), _filled(m.shift, axis, n)] for m, n in pairs]
    arrays = [array for row in rows for array in row]
    shape = np.broadcast_shapes(*(_without(array.shape, axis) for array in arrays))
    return Affine(*(_joined_arrays([row[i] for row in rows], shape, axis) for i in (0, 1)))


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape with that axis at size 1."""
    return (*shape[:axis], 1, *shape[axis + 1 :])


def _joined_arrays(arrays: list[Floats], shape: tuple[int, ...], axis: int) -> Floats:
    full = []
    for array in arrays:
        size = array.shape[axis]
        full.append(np.broadcast_to(array, (*shape[:axis], size, *shape[axis + 1 :])))
    return np.concatenate(full, axis)


def _filled(array: Floats, axis: int, size: int) -> Floats:
    shape = list(array.shape)
    shape[axis] = size
    return np.broadcast_to(array, shape)


def _part(graph: Graph, op: Op, affine: Affine, part: slice) -> Affine:
    assert isinstance(op.spec, Split)
    axis, drops = op.spec.axis, op.spec.drops

    def cut(array: Floats) -> Floats:
        if array.shape[axis] > 1:
            array = array[(slice(None),) * axis + (part,)]
        return np.squeeze(array, axis) if drops else array

    return _each(affine, cut)


def _joined(graph: Graph, op: Op, wanted: Sequence[Affine]) -> Affine:
    """Each output's map in its place of the input, anything elsewhere."""
    assert isinstance(op.spec, Split)
    spec = op.spec
    if spec.drops:
        wanted = [_each(w, lambda array: np.expand_dims(array, spec.axis)) for w in wanted]
    shape = graph.shape(op.inputs[0])
    size = shape[spec.axis] if shape else "?"
    if not isinstance(size, int):
        if all(_is_even(w, spec.axis) and same(w, wanted[0]) for w in wanted):
            return wanted[0]
        raise Stuck(f"{op.label} ({op.kind}) cuts an axis of unknown size")
    pairs = [np.broadcast_arrays(w.scale, w.shift) for w in wanted]
    outer = np.broadcast_shapes(*(_without(p[0].shape, spec.axis) for p in pairs))
    full = (*outer[: spec.axis], size, *outer[spec.axis + 1 :])
    if np.prod(full) > _MAX_SIZE:
        raise Stuck("its map became too large to carry")
    scale, shift = np.full(full, np.nan), np.full(full, np.nan)
    for pair, part in zip(pairs, spec.parts, strict=True):
        key = (slice(None),) * spec.axis + (part,)
        scale[key], shift[key] = pair[0], pair[1]
    return Affine(scale, shift)


def _shuffled(op: Op, affine: Affine, factor: int, *, splits: bool) -> Affine:
    """(N, C, 1, 1) <-> (N, C*r*r, 1, 1): all places of a block share their channel's map."""
    affine = collapsed(affine, (2, 3), f"{op.label} ({op.kind}) moves positions")
    if _is_even(affine, 1):
        return affine
    block = factor * factor
    if splits:
        return _each(affine, lambda array: np.repeat(array, block, axis=1))

    def blocks(array: Floats) -> Floats:
        grouped = array.reshape(array.shape[0], -1, block, 1, 1)
        small = constant_along(grouped, (2,))
        if small is None:
            raise Stuck(f"{op.label} ({op.kind}) mixes its channels")
        return small[:, :, 0]

    return _each(affine, blocks)


def _unexpanded(graph: Graph, op: Op, affine: Affine) -> Affine:
    out, into = _shapes(graph, op.outputs[0], op.inputs[0])
    more = len(out) - len(into)
    repeated = [i for i, size in enumerate(out) if i < more or into[i - more] != size]
    affine = collapsed(affine, repeated, f"{op.label} ({op.kind}) repeats its channels")
    return _each(affine, lambda array: array.reshape(array.shape[more:]))


def same(first: Affine, second: Affine) -> bool:
    """Whether two maps are equal wherever both care."""
    return merged(first, second) is not None


def merged(first: Affine, second: Affine) -> Affine | None:
    """What both maps want, each filling the places where the other does not care."""
    if first is second:
        return first
    arrays = np.broadcast_arrays(first.scale, first.shift, second.scale, second.shift)
    free, other_free = np.isnan(arrays[0]), np.isnan(arrays[2])
    both = ~free & ~other_free
    if np.any(both & ((arrays[0] != arrays[2]) | (arrays[1] != arrays[3]))):
        return None
    return Affine(np.where(free, arrays[2], arrays[0]), np.where(free, arrays[3], arrays[1]))


def settled(affine: Affine) -> Affine:
    """The map with the identity wherever nobody cares."""
    free = np.isnan(affine.scale)
    if not np.any(free):
        return affine
    shift = np.broadcast_to(affine.shift, free.shape)
    return Affine(np.where(free, 1.0, affine.scale), np.where(free, 0.0, shift))


def fitted(array: Floats, shape: Shape, out: Shape) -> Floats:
    """A map of a broadcast result, as a map of the operand of that (smaller) shape."""
    more = len(out) - len(shape)
    repeated = [i for i, size in enumerate(out) if i < more or shape[i - more] != size]
    small = constant_along(array, repeated)
    if small is None:
        raise Stuck("an operand of the addition before it is broadcast over its channels")
    return small.reshape(small.shape[more:])


def reshaped(array: Floats, source: Shape, target: Shape) -> Floats:
    """A map over `source` as one over `target`: rows of axes that hold the same elements."""
    wide: list[int] = []
    final: list[int] = []
    for first, second in _groups(source, target):
        mine = array.shape[len(wide) : len(wide) + len(first)]
        if all(size == 1 for size in mine):
            wide += mine
            final += [1] * len(second)
        elif [s for s in first if s != 1] == [s for s in second if s != 1]:
            # The axes stay, sizes of 1 come or go, so a map may be 1 where the size is unknown.
            kept = iter([n for n, size in zip(mine, first, strict=True) if size != 1])
            wide += mine
            final += [1 if size == 1 else next(kept) for size in second]
        else:
            sizes = _integers(first), _integers(second)
            wide += sizes[0]
            final += sizes[1]
    if int(np.prod(wide, dtype=object)) > _MAX_SIZE:
        raise Stuck("its map became too large to carry")
    result = np.broadcast_to(array, wide).reshape(final)
    for axis in range(result.ndim):
        small = constant_along(result, (axis,))
        result = result if small is None else small
    return result


def _integers(sizes: Sequence[int | str]) -> list[int]:
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) != len(sizes):
        raise Stuck("a reshape mixes its channels with an axis of unknown size")
    return known


_Row = tuple[Sequence["int | str"], Sequence["int | str"]]


def _groups(source: Shape, target: Shape) -> list[_Row]:
    """Runs of source axes and of target axes that hold the same number of elements."""
    groups: list[_Row] = []
    i = j = 0
    while i < len(source) and j < len(target):
        start, begin = i, j
        i, j = i + 1, j + 1
        while (order := _compare(source[start:i], target[begin:j])) != 0:
            if order < 0 and i < len(source):
                i += 1
            elif order > 0 and j < len(target):
                j += 1
            else:
                raise Stuck("a reshape between is not understood")
        groups.append((source[start:i], target[begin:j]))
    rest = source[i:], target[j:]
    if any(size != 1 for size in (*rest[0], *rest[1])):
        raise Stuck("a reshape between is not understood")
    if groups and (rest[0] or rest[1]):
        last = groups.pop()
        groups.append(((*last[0], *rest[0]), (*last[1], *rest[1])))
    return groups


def _compare(first: Sequence[int | str], second: Sequence[int | str]) -> int:
    """0 where both hold equally many elements, -1 where the first needs more axes, or 1."""
    (size, names), (other, others) = _product(first), _product(second)
    if names != others:
        return -1 if set(others) - set(names) or len(others) > len(names) else 1
    return (size > other) - (size < other)


def _product(sizes: Sequence[int | str]) -> tuple[int, list[str]]:
    number, names = 1, []
    for size in sizes:
        factors = [str(size)] if isinstance(size, int) else size.split("*")
        if all(_COEFFICIENT.fullmatch(f) or _SYMBOL.fullmatch(f) for f in factors):
            number *= int(np.prod([int(f) for f in factors if f.isdigit()], dtype=object))
            names += [f for f in factors if not f.isdigit()]
        else:
            names.append(str(size))
    return number, sorted(names)
