"""What can be done with an affine map alone: compare, merge and shrink it.

A map is a pair of arrays that broadcast against the value they belong to, algebra.FREE where no
reader of the value wants anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bncheck.folding.algebra import Affine, is_free
from bncheck.graph.dataflow import Floats, Graph, Op, Shape
from bncheck.graph.specs import Spec

#: Maps larger than this (in numbers) are not worth carrying: one per element of a feature map.
MAX_SIZE = 1 << 24


#: What to do where not even the number of axes is known.
UNKNOWN = "export it with shapes whose number of axes is known"


class Stuck(Exception):
    """A map can go no further: why, and what to change in the model.

    `instead` is what the hint makes of the call that stands in the way: hints.py tries it.
    """

    def __init__(
        self,
        reason: str,
        hint: str | Callable[[], str] = "",
        instead: tuple[Op, Spec] | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.instead = instead
        self._hint = hint

    @property
    def hint(self) -> str:
        """What would have to change; found out when asked for, since it may take a walk."""
        return self._hint() if callable(self._hint) else self._hint


def unfit(op: Op) -> Stuck:
    """A file gives a call a weight, or an operand, of a size that is not that of its input."""
    return Stuck(f"the sizes of {op.called} do not fit", "export it again: it cannot run as it is")


def free_size(reason: str) -> Stuck:
    """A map depends on a size that is not known."""
    return Stuck(reason, "export it with a fixed size there")


class Shared(Stuck):
    """Somebody else reads `value`, which would change."""

    def __init__(self, reason: str, hint: str, value: str) -> None:
        super().__init__(reason, hint)
        self.value = value


def in_one_shape(affine: Affine) -> tuple[Floats, Floats]:
    """Its scale and shift in one shape; most have one already, and broadcasting them is slow."""
    if affine.scale.shape == affine.shift.shape:
        return affine.scale, affine.shift
    scale, shift = np.broadcast_arrays(affine.scale, affine.shift)
    return scale, shift


def each(affine: Affine, change: Callable[[Floats], Floats]) -> Affine:
    """The map with both arrays changed alike."""
    scale, shift = in_one_shape(affine)
    return Affine(change(scale), change(shift))


def known_shape(graph: Graph, name: str | None) -> Shape:
    """The shape of a value, where it is known."""
    shape = graph.shape(name)
    if shape is None:
        raise Stuck("the shapes around it are not known", UNKNOWN)
    return shape


def shapes_of(graph: Graph, first: str | None, second: str | None) -> tuple[Shape, Shape]:
    """The shapes of two values, where both are known."""
    return known_shape(graph, first), known_shape(graph, second)


def over_rank(affine: Affine, rank: int) -> Affine:
    """The map of a value that is broadcast to a higher rank."""
    return each(affine, lambda array: array.reshape((1,) * (rank - array.ndim) + array.shape))


def constant_along(array: Floats, axes: Sequence[int]) -> Floats | None:
    """`array` with these axes reduced to size 1, or None where its numbers differ along them."""
    for axis in axes:
        if array.shape[axis] == 1:
            continue
        free = is_free(array)
        first = np.take_along_axis(array, np.argmin(free, axis, keepdims=True), axis)
        if not np.all(free | (array == first)):
            return None
        array = first
    return array


def collapsed(affine: Affine, axes: Sequence[int], complaint: str) -> Affine:
    """The map with these axes reduced to size 1."""
    scale, shift = in_one_shape(affine)
    small = constant_along(scale, axes), constant_along(shift, axes)
    if small[0] is None or small[1] is None:
        raise Stuck(complaint)
    return Affine(small[0], small[1])


def is_even(affine: Affine, axis: int) -> bool:
    """Whether a map does not know how long that axis is."""
    return bool(affine.scale.shape[axis] == 1 and affine.shift.shape[axis] == 1)


def same(first: Affine, second: Affine) -> bool:
    """Whether two maps are equal wherever neither is free."""
    return merged(first, second) is not None


def merged(first: Affine, second: Affine) -> Affine | None:
    """The map that is both, each filling what is free in the other; None where they differ."""
    if first is second:
        return first
    arrays = np.broadcast_arrays(first.scale, first.shift, second.scale, second.shift)
    free, other_free = is_free(arrays[0]), is_free(arrays[2])
    both = ~free & ~other_free
    if np.any(both & ((arrays[0] != arrays[2]) | (arrays[1] != arrays[3]))):
        return None
    return Affine(np.where(free, arrays[2], arrays[0]), np.where(free, arrays[3], arrays[1]))


def settled(affine: Affine) -> Affine:
    """The map with the identity wherever it is free."""
    free = is_free(affine.scale)
    if not np.any(free):
        return affine
    shift = np.broadcast_to(affine.shift, free.shape)
    return Affine(np.where(free, 1.0, affine.scale), np.where(free, 0.0, shift))


def spreads(small: Shape, shape: Shape) -> bool:
    """Whether an array of the first shape is repeated to the second; unknown sizes may fit."""
    pairs = zip(reversed(small), reversed(shape), strict=False)
    return len(small) <= len(shape) and all(
        n == 1 or n == size or isinstance(size, str) for n, size in pairs
    )


def before_repeating(affine: Affine, shape: Shape, out: Shape, complaint: str) -> Affine:
    """The map of a value of that shape which is then repeated, by broadcasting, to shape `out`."""
    more = len(out) - len(shape)
    repeated = [i for i, size in enumerate(out) if i < more or shape[i - more] != size]
    small = collapsed(affine, repeated, complaint)
    return each(small, lambda array: array.reshape(array.shape[more:]))
