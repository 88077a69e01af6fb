"""How much of a map shows what a region does: a few places, where its calls treat all alike.

A call treats places alike if moving the map by a step moves its result by a step: what a constant,
a size or a position says about a certain place rules that out. The borders are left. They are those
of the whole map as long as a window is smaller than it by a multiple of all steps: each kernel then
ends as far from the last row as it does there, so that padding, ceil_mode and sizes that keep an
odd row show in the window, too. When in doubt, the whole map is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from bncheck.folding.difference import Output
from bncheck.graph.dataflow import Dim, Op, Shape
from bncheck.graph.specs import (
    Add,
    Average,
    Concat,
    Conv,
    ConvTranspose,
    Identity,
    Kernel,
    Larger,
    Maximum,
    Mul,
    Norm,
    PixelShuffle,
    Pointwise,
    Rectifier,
)

#: Places that a result has along each axis of a line, a plane and a volume, beside its borders.
_PLACES = {1: 16, 2: 4, 3: 3}
#: The sizes of constants by their names; None where they are not known.
Shapes: TypeAlias = "Mapping[str, Shape | None]"


@dataclass(frozen=True, slots=True)
class Window:
    """Of each axis at least so much, and as much as leaves out a multiple of `steps`."""

    least: tuple[int, ...]
    steps: tuple[int, ...]

    def sizes(self, whole: Sequence[int]) -> tuple[int, ...]:
        """How much of maps of this size."""
        sides = zip(whole, self.least, self.steps, strict=True)
        return tuple(min(n, least + (n - least) % step) for n, least, step in sides)

    def of(self, value: Output) -> Output:
        """The middle of the maps of one sample; what has a single place is taken as it is."""
        whole = value.shape[2:]
        taken = whole if max(whole) == 1 else self.sizes(whole)
        first = [(n - size) // 2 for n, size in zip(whole, taken, strict=True)]
        middle = (slice(f, f + size) for f, size in zip(first, taken, strict=True))
        return value[(slice(0, 1), slice(None), *middle)]

    def joined(self, other: Window) -> Window:
        """One from which either can be taken."""
        least = tuple(map(max, self.least, other.least))
        return Window(least, tuple(map(math.lcm, self.steps, other.steps)))


def window_of(
    calls: Iterable[Op | None], entries: Mapping[str, Sequence[Dim]], fixed: Shapes
) -> Window | None:
    """What shows all that these calls do to maps of such sizes; None where all of it is needed.

    The calls are in their order; None is one of which nothing is known.
    """
    ranks = {len(size) - 2 for size in entries.values()}
    sizes = {tuple(map(str, size[2:])) for size in entries.values()}
    axes = max(ranks, default=0)
    large = sizes - {("1",) * axes}
    if len(ranks) != 1 or axes not in _PLACES or len(large) != 1:
        return None
    kernels = list[Kernel]()
    maps = set(entries)
    for op in calls:
        if op is None or not _treats_places_alike(op, maps, fixed, axes):
            return None
        maps.update(op.outputs)
        kernels += _kernels(op, axes)
    return Window(*zip(*_reaches(kernels, axes), strict=True))


def _reaches(kernels: Sequence[Kernel], axes: int) -> Iterator[tuple[int, int]]:
    """How far all kernels see together along each axis, with some places beside, and their step."""
    for axis in range(axes):
        reach, step = 0, 1
        for kernel in kernels:
            reach += (kernel.sizes[axis] - 1) * kernel.gaps[axis] * step
            step *= kernel.steps[axis]
        yield reach + _PLACES[axes] * step, step


def _treats_places_alike(op: Op, maps: set[str], fixed: Shapes, axes: int) -> bool:
    """Whether a call does not know where in the map it is, and no constant has numbers by place."""
    spec, given = op.spec, [name for name in op.inputs if name]
    beside = [name for name in given if name not in maps]
    if not fixed.keys() >= set(beside):
        return False
    if isinstance(spec, (Conv, ConvTranspose, Average, Maximum)):
        slides = spec.kernel is not None and len(spec.kernel.sizes) == axes
        return slides and beside == given[1:]
    if isinstance(spec, Norm):
        return beside == given[1:] and not spec.uses_batch
    if isinstance(spec, Concat):
        return spec.axis == 1 and not spec.stacks and not beside
    if isinstance(spec, PixelShuffle):
        return axes == 2
    if op.kind == "prelu":  # torch's has a slope for each channel
        return True
    pointwise = isinstance(spec, (Add, Mul, Larger, Identity, Pointwise, Rectifier))
    return pointwise and all(_has_one_place(fixed[name], axes) for name in beside)


def _has_one_place(shape: Shape | None, axes: int) -> bool:
    return shape is not None and all(size == 1 for size in shape[max(0, len(shape) - axes) :])


def _kernels(op: Op, axes: int) -> Iterator[Kernel]:
    spec = op.spec
    if isinstance(spec, PixelShuffle):
        step = spec.factor if spec.inverse else 1
        yield Kernel((step,) * axes, (step,) * axes, (1,) * axes)
    elif isinstance(spec, (Conv, ConvTranspose, Average, Maximum)) and spec.kernel:
        moves = isinstance(spec, ConvTranspose)  # by parts of a step
        yield Kernel(spec.kernel.sizes, (1,) * axes, spec.kernel.gaps) if moves else spec.kernel
