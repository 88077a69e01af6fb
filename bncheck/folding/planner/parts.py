"""Maps of wholes and of their parts: joining, cutting and picking along an axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bncheck.folding.algebra import Affine, identity
from bncheck.folding.planner.maps import MAX_SIZE, Stuck, each, is_even, merged, same
from bncheck.graph.dataflow import Concat, Floats, Gather, Graph, Op, Split


def _axis_sizes(graph: Graph, op: Op, axis: int) -> list[int]:
    sizes = []
    for name in op.inputs:
        shape = graph.shape(name)
        if shape is None or not isinstance(size := shape[axis], int):
            raise Stuck(f"{op.label} ({op.kind}) joins parts of unknown size")
        sizes.append(size)
    return sizes


def parts_of(graph: Graph, op: Op, affine: Affine) -> list[Affine]:
    """What each part of a concatenation takes of its map."""
    assert isinstance(op.spec, Concat)
    axis = op.spec.axis
    if op.spec.stacks:
        return [_cut(affine, axis, slot) for slot in range(len(op.inputs))]
    if is_even(affine, axis):
        return [affine] * len(op.inputs)
    ends = np.cumsum(_axis_sizes(graph, op, axis))[:-1]
    scale, shift = np.broadcast_arrays(affine.scale, affine.shift)
    pairs = zip(np.split(scale, ends, axis), np.split(shift, ends, axis), strict=True)
    return [Affine(*pair) for pair in pairs]


def joined(graph: Graph, op: Op, given: Mapping[int, Affine]) -> Affine:
    """The map of a concatenation, from those of some of its parts."""
    assert isinstance(op.spec, Concat)
    axis = op.spec.axis
    if op.spec.stacks:
        given = {s: each(m, lambda array: np.expand_dims(array, axis)) for s, m in given.items()}
    one = identity(next(iter(given.values())).scale.ndim)
    maps = [given.get(slot, one) for slot in range(len(op.inputs))]
    if all(is_even(m, axis) and same(maps[0], m) for m in maps):
        return maps[0]
    sizes = [1] * len(maps) if op.spec.stacks else _axis_sizes(graph, op, axis)
    pairs = zip(maps, sizes, strict=True)
    rows = [[_filled(m.scale, axis, n), _filled(m.shift, axis, n)] for m, n in pairs]
    arrays = [array for row in rows for array in row]
    shape = np.broadcast_shapes(*(_without(array.shape, axis) for array in arrays))
    return Affine(*(_joined_arrays([row[i] for row in rows], shape, axis) for i in (0, 1)))


def _cut(affine: Affine, axis: int, place: int) -> Affine:
    """One slice of a stack, the axis gone."""

    def cut(array: Floats) -> Floats:
        slices: Floats = np.take(array, place if array.shape[axis] > 1 else 0, axis)
        return slices

    return each(affine, cut)


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


def part_of(op: Op, affine: Affine, part: slice) -> Affine:
    """The map of one part that a split cuts off."""
    assert isinstance(op.spec, Split)
    axis, drops = op.spec.axis, op.spec.drops

    def cut(array: Floats) -> Floats:
        if array.shape[axis] > 1:
            array = array[(slice(None),) * axis + (part,)]
        return np.squeeze(array, axis) if drops else array

    return each(affine, cut)


def whole_of(graph: Graph, op: Op, wanted: Sequence[Affine]) -> Affine:
    """Each output's map in its place of the input, anything elsewhere."""
    assert isinstance(op.spec, Split)
    spec = op.spec
    if spec.drops:
        wanted = [each(w, lambda array: np.expand_dims(array, spec.axis)) for w in wanted]
    shape = graph.shape(op.inputs[0])
    size = shape[spec.axis] if shape else "?"
    if not isinstance(size, int):
        if all(is_even(w, spec.axis) and same(w, wanted[0]) for w in wanted):
            return wanted[0]
        raise Stuck(f"{op.label} ({op.kind}) cuts an axis of unknown size")
    pairs = [np.broadcast_arrays(w.scale, w.shift) for w in wanted]
    outer = np.broadcast_shapes(*(_without(p[0].shape, spec.axis) for p in pairs))
    full = (*outer[: spec.axis], size, *outer[spec.axis + 1 :])
    if np.prod(full) > MAX_SIZE:
        raise Stuck("its map became too large to carry")
    scale, shift = np.full(full, np.nan), np.full(full, np.nan)
    for pair, part in zip(pairs, spec.parts, strict=True):
        key = (slice(None),) * spec.axis + (part,)
        scale[key], shift[key] = pair[0], pair[1]
    return Affine(scale, shift)


def picked(op: Op, affine: Affine) -> Affine:
    """The map of what is picked, from that of the whole."""
    assert isinstance(op.spec, Gather)
    for axis, indices in op.spec.picks:
        if is_even(affine, axis):
            continue
        if indices is None:
            raise Stuck(f"{op.label} ({op.kind}) moves positions")
        place = np.asarray(indices)
        affine = each(affine, lambda array, a=axis, i=place: np.take(array, i, a))  # type: ignore[misc]
    return affine


def picked_from(graph: Graph, op: Op, affine: Affine) -> Affine:
    """The map of the whole, from that of what is picked; what nobody picks is free."""
    assert isinstance(op.spec, Gather)
    shape = graph.shape(op.inputs[0])
    for axis, indices in op.spec.picks:
        if is_even(affine, axis):
            continue
        size = shape[axis] if shape else "?"
        if indices is None or not isinstance(size, int):
            raise Stuck(f"{op.label} ({op.kind}) moves positions")
        affine = _returned(op, affine, axis, indices, size)
    return affine


def _returned(op: Op, affine: Affine, axis: int, indices: Sequence[int], size: int) -> Affine:
    pair = np.broadcast_arrays(affine.scale, affine.shift)
    full = (*pair[0].shape[:axis], size, *pair[0].shape[axis + 1 :])
    if np.prod(full) > MAX_SIZE:
        raise Stuck("its map became too large to carry")
    free = np.full(_without(full, axis), np.nan)
    rows = [Affine(free, free)] * size
    for place, index in enumerate(indices):
        taken = [np.take(array, [place], axis) for array in pair]
        both = merged(rows[index], Affine(*taken))
        if both is None:
            raise Stuck(f"{op.label} ({op.kind}) repeats its channels, and their scales differ")
        rows[index] = both
    arrays = ([row.scale for row in rows], [row.shift for row in rows])
    return Affine(*(np.concatenate(array, axis) for array in arrays))
