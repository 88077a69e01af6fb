"""How a map passes a call that joins, cuts or picks along an axis: docs/folding.md, "Passing"."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from bncheck.folding.algebra import FREE, Affine, identity, unconstrained
from bncheck.folding.planner.maps import MAX_SIZE, Stuck, each, free_size, is_even, merged
from bncheck.graph.dataflow import Floats, Graph, Op
from bncheck.graph.specs import Chosen, Concat, Gather, Split


def _axis_sizes(graph: Graph, op: Op, axis: int) -> list[int]:
    sizes = _known_sizes(graph, op, axis)
    if sizes is None:
        raise free_size(f"{op.called} joins parts of unknown size")
    return sizes


def _known_sizes(graph: Graph, op: Op, axis: int) -> list[int] | None:
    """The sizes of all parts, where they are known."""
    shapes = [graph.shape(name) for name in op.inputs]
    sizes = [size for shape in shapes if shape and isinstance(size := shape[axis], int)]
    return sizes if len(sizes) == len(shapes) else None


def _shared(maps: Sequence[Affine], axis: int) -> Affine | None:
    """The map that all of these are, each filling what is free in others, whatever their sizes."""
    result: Affine | None = maps[0]
    for map_ in maps:
        if result is None or not is_even(map_, axis):
            return None
        result = merged(result, map_)
    return result


def parts_of(graph: Graph, op: Op, affine: Affine) -> list[Affine]:
    """What each part of a concatenation takes of its map."""
    assert isinstance(op.spec, Concat)
    axis, stacks = op.spec.axis, op.spec.stacks
    if is_even(affine, axis) and not stacks:
        return [affine] * len(op.inputs)
    sizes = [1] * len(op.inputs) if stacks else _axis_sizes(graph, op, axis)
    bounds = itertools.pairwise(itertools.accumulate(sizes, initial=0))
    return [_cut(affine, axis, slice(*pair), drops=stacks) for pair in bounds]


def joined(graph: Graph, op: Op, given: Mapping[int, Affine]) -> Affine:
    """The map of a concatenation, from those of some of its parts."""
    assert isinstance(op.spec, Concat)
    axis, stacks = op.spec.axis, op.spec.stacks
    if stacks:
        given = {s: each(m, lambda array: np.expand_dims(array, axis)) for s, m in given.items()}
    one = identity(next(iter(given.values())).scale.ndim)
    maps = [given.get(slot, one) for slot in range(len(op.inputs))]
    if not stacks and (one_map := _shared(maps, axis)) is not None:
        return one_map
    if not stacks and all(is_even(m, axis) for m in maps) and not _known_sizes(graph, op, axis):
        raise Stuck(f"{op.called} joins it with an activation that does not have the same scale")
    return side_by_side(maps, axis, [1] * len(maps) if stacks else _axis_sizes(graph, op, axis))


def side_by_side(maps: Sequence[Affine], axis: int, sizes: Sequence[int]) -> Affine:
    """The map whose parts along an axis, of these sizes, are those maps."""
    pairs = [np.broadcast_arrays(m.scale, m.shift) for m in maps]
    outer = np.broadcast_shapes(*(_resized(pair[0].shape, axis, 1) for pair in pairs))
    rows = [
        [np.broadcast_to(array, _resized(outer, axis, size)) for array in pair]
        for pair, size in zip(pairs, sizes, strict=True)
    ]
    return Affine(*(np.concatenate(arrays, axis) for arrays in zip(*rows, strict=True)))


def _cut(affine: Affine, axis: int, part: slice, *, drops: bool) -> Affine:
    """The map of a part along an axis, which disappears where the call drops it."""

    def cut(array: Floats) -> Floats:
        if array.shape[axis] > 1:
            array = array[(slice(None),) * axis + (part,)]
        return np.squeeze(array, axis) if drops else array

    return each(affine, cut)


def _resized(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    """The shape with that axis at another size."""
    return (*shape[:axis], size, *shape[axis + 1 :])


def cuts_of(op: Op, affine: Affine) -> list[Affine]:
    """The maps of the parts that a split gives."""
    assert isinstance(op.spec, Split)
    return [_cut(affine, op.spec.axis, part, drops=op.spec.drops) for part in op.spec.parts]


def whole_of(graph: Graph, op: Op, wanted: Sequence[Affine]) -> Affine:
    """Each output's map in its place of the input, free elsewhere."""
    assert isinstance(op.spec, Split)
    spec = op.spec
    if spec.drops:
        wanted = [each(w, lambda array: np.expand_dims(array, spec.axis)) for w in wanted]
    shape = graph.shape(op.inputs[0])
    size = shape[spec.axis] if shape else "?"
    if not isinstance(size, int):
        if (shared := _shared(wanted, spec.axis)) is not None:
            return shared
        raise free_size(f"{op.called} cuts an axis of unknown size")
    pairs = [np.broadcast_arrays(w.scale, w.shift) for w in wanted]
    outer = np.broadcast_shapes(*(_resized(p[0].shape, spec.axis, 1) for p in pairs))
    full = _resized(outer, spec.axis, size)
    if np.prod(full) > MAX_SIZE:
        raise Stuck("its scale and shift differ at too many places")
    scale, shift = np.full(full, FREE), np.full(full, FREE)
    for pair, part in zip(pairs, spec.parts, strict=True):
        key = (slice(None),) * spec.axis + (part,)
        scale[key], shift[key] = pair[0], pair[1]
    return Affine(scale, shift)


def picked(_: Graph, op: Op, affine: Affine) -> Affine:
    """The map of what is picked, from that of the whole."""
    assert isinstance(op.spec, Gather)
    for axis, indices in op.spec.picks:
        if is_even(affine, axis):
            continue
        if indices is None:
            raise _unknown_places(op)
        place = np.asarray(indices, np.int64)
        affine = each(affine, lambda array, a=axis, i=place: np.take(array, i, a))  # type: ignore[misc]
    return each(affine, partial(_unfolded, op.spec)) if op.spec.unfolds else affine


def _unfolded(spec: Gather, array: Floats) -> Floats:
    """The only axis as several."""
    ((axis, _),) = spec.picks
    sizes = spec.unfolds if array.shape[axis] != 1 else (1,) * len(spec.unfolds)
    return array.reshape(array.shape[:axis] + tuple(map(int, sizes)) + array.shape[axis + 1 :])


def _folded(op: Op, spec: Gather, affine: Affine) -> Affine:
    """Several axes as the only one that they were."""
    ((axis, places),) = spec.picks
    axes = range(axis, axis + len(spec.unfolds))
    if all(is_even(affine, other) for other in axes):
        return each(affine, lambda array: np.squeeze(array, tuple(axes[1:])))
    if places is None:
        raise _unknown_places(op)
    sizes = tuple(map(int, spec.unfolds))

    def folded(array: Floats) -> Floats:
        front, behind = array.shape[:axis], array.shape[axis + len(sizes) :]
        return np.broadcast_to(array, front + sizes + behind).reshape((*front, -1, *behind))

    return each(affine, folded)


def _unknown_places(op: Op) -> Stuck:
    if isinstance(op.spec, Chosen) and op.spec.varies:
        return Stuck(f"{op.called} does not pick the same channels at all places")
    return Stuck(f"{op.called} picks channels that are not known before it runs")


def picked_from(graph: Graph, op: Op, affine: Affine) -> Affine:
    """The map of the whole, from that of what is picked; what is not picked is free."""
    assert isinstance(op.spec, Gather)
    shape = graph.shape(op.inputs[0])
    if op.spec.unfolds:
        affine = _folded(op, op.spec, affine)
    for axis, indices in op.spec.picks:
        if is_even(affine, axis):
            continue
        size = shape[axis] if shape else "?"
        if indices is None or not isinstance(size, int):
            raise _unknown_places(op)
        affine = _returned(op, affine, axis, indices, size)
    return affine


def _returned(op: Op, affine: Affine, axis: int, indices: Sequence[int], size: int) -> Affine:
    pair = np.broadcast_arrays(affine.scale, affine.shift)
    if np.prod(_resized(pair[0].shape, axis, size)) > MAX_SIZE:
        raise Stuck("its scale and shift differ at too many places")
    rows = [unconstrained(pair[0].ndim)] * size
    for place, index in enumerate(indices):
        both = merged(rows[index], Affine(*(np.take(array, [place], axis) for array in pair)))
        if both is None:
            raise Stuck(f"{op.called} repeats its channels, and their scales differ")
        rows[index] = both
    return side_by_side(rows, axis, [1] * size)
