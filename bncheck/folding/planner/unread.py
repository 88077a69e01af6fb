"""Which parts of values nobody reads: there a map may be anything.

docs/folding.md, "The map of a normalisation": free numbers. A walk against the data, which carries
the identity where a number is read and FREE elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bncheck.folding.algebra import FREE, Affine, identity, is_free, unconstrained
from bncheck.folding.planner.maps import (
    Stuck,
    before_repeating,
    collapsed,
    each,
    is_even,
    merged,
    shapes_of,
)
from bncheck.folding.planner.passing import pulled_through
from bncheck.graph.dataflow import Graph, Op
from bncheck.graph.specs import Add, Gather, Larger, Mul, Norm, Pointwise, ShapeOf, Split

#: What is read of a value: None for all of it.
_Read = Affine | None


def partly_read(graph: Graph) -> Mapping[str, Affine]:
    """The values of which a part is not read, as maps that are FREE there."""
    found: dict[str, Affine] = {}
    whole = set(graph.outputs)
    for op in reversed(graph.ops):
        results = [None if n in whole else found.get(n, _nothing(graph, n)) for n in op.outputs]
        for name, read in zip(op.inputs, _read_by(graph, op, results), strict=False):
            if name is None or name in whole:
                continue
            both = merged(found.get(name, read), read) if read is not None else None
            if both is None or not np.any(is_free(both.scale)):
                whole.add(name)
                found.pop(name, None)
            else:
                found[name] = both
    return found


def _nothing(graph: Graph, name: str) -> _Read:
    shape = graph.shape(name)
    return None if shape is None else unconstrained(len(shape))


def _read_by(graph: Graph, op: Op, results: Sequence[_Read]) -> Sequence[_Read]:
    """What a call reads of each of its inputs, from what is read of its results."""
    everything: list[_Read] = [None] * len(op.inputs)
    if isinstance(op.spec, ShapeOf):
        return []
    if not isinstance(op.spec, (Split, Gather)) and all(read is None for read in results):
        return everything
    shapes = [graph.shape(name) for name in op.outputs]
    if any(shape is None for shape in shapes):
        return everything
    maps = [read or identity(len(s or ())) for read, s in zip(results, shapes, strict=True)]
    try:
        read = _of_data(graph, op, maps)
    except Stuck:
        return everything
    return [*read, *everything[len(read) :]]  # the rest are settings, such as the places of a grid


def _of_data(graph: Graph, op: Op, maps: Sequence[Affine]) -> Sequence[_Read]:
    """What is read of the data among the inputs of a call."""
    if isinstance(op.spec, Norm):
        return [] if op.spec.uses_batch else maps
    if isinstance(op.spec, Pointwise):
        return maps
    if isinstance(op.spec, (Add, Mul, Larger)):
        pairs = [shapes_of(graph, name, op.outputs[0]) for name in op.inputs[:2]]
        return [before_repeating(maps[0], *pair, "") for pair in pairs]
    read = pulled_through(graph, op, maps)
    return [_of_picked(graph, op, read[0])] if isinstance(op.spec, Gather) else read


def _of_picked(graph: Graph, op: Op, read: Affine) -> _Read:
    """What is read of the whole where the same is read of all that is picked along an axis."""
    assert isinstance(op.spec, Gather)
    shape = graph.shape(op.inputs[0]) or ()
    for axis, places in op.spec.picks:
        size = shape[axis]
        if places is None or not isinstance(size, int) or not is_even(read, axis):
            continue
        seen = np.zeros(size, bool)
        seen[list(places)] = True
        seen = seen.reshape([size if i == axis else 1 for i in range(len(shape))])
        if not np.all(seen):
            read = each(read, lambda array, seen=seen: np.where(seen, array, FREE))  # type: ignore[misc]
    return read if np.any(is_free(read.scale)) else None


def without_unread(affine: Affine, read: Affine) -> Affine:
    """The map with what is not read of its value as FREE."""
    scale, shift = np.broadcast_arrays(affine.scale, affine.shift)
    even = [axis for axis, size in enumerate(scale.shape) if size == 1]
    free = is_free(collapsed(read, even, "").scale)
    return Affine(np.where(free, FREE, scale), np.where(free, FREE, shift))


def reached(graph: Graph, partly: Mapping[str, Affine], name: str) -> set[str]:
    """What is made of the unread part of a value: that part of others, unread as well."""
    found, waiting = set(), [name]
    while waiting:
        value = waiting.pop()
        if value in partly and value not in found:
            found.add(value)
            waiting += [n for use in graph.uses.get(value, []) for n in graph.ops[use.op].outputs]
    return found
