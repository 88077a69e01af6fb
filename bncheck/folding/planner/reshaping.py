"""How a map passes a call that rearranges axes: docs/folding.md, "Passing"."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.maps import (
    MAX_SIZE,
    Stuck,
    before_repeating,
    collapsed,
    constant_along,
    each,
    free_size,
    is_even,
    shapes_of,
)
from bncheck.graph.dataflow import Floats, Graph, Op, Shape
from bncheck.graph.specs import PixelShuffle, Transpose

_COEFFICIENT = re.compile(r"\d+")
_SYMBOL = re.compile(r"\?.+|[A-Za-z_]\w*")  # "?..." names a size of which nothing is known
_Row = tuple[Sequence["int | str"], Sequence["int | str"]]


def before_reshape(graph: Graph, op: Op, affine: Affine) -> Affine:
    """The map of what is reshaped."""
    out, into = shapes_of(graph, op.outputs[0], op.inputs[0])
    return each(affine, lambda array: reshaped(array, out, into))


def after_reshape(graph: Graph, op: Op, affine: Affine) -> Affine:
    """The map of what was reshaped."""
    into, out = shapes_of(graph, op.inputs[0], op.outputs[0])
    return each(affine, lambda array: reshaped(array, into, out))


def before_expansion(graph: Graph, op: Op, affine: Affine) -> Affine:
    """The map of what is repeated, the same at all its copies."""
    out, into = shapes_of(graph, op.outputs[0], op.inputs[0])
    return before_repeating(affine, into, out, f"{op.called} repeats its channels")


def after_expansion(graph: Graph, op: Op, affine: Affine) -> Affine:
    """The map of all copies."""
    into, out = shapes_of(graph, op.inputs[0], op.outputs[0])
    more = (1,) * (len(out) - len(into))
    return each(affine, lambda array: array.reshape(more + array.shape))


def before_transpose(_: Graph, op: Op, affine: Affine) -> Affine:
    """Axis order[i] of the input is axis i of the output."""
    assert isinstance(op.spec, Transpose)
    order = np.argsort(op.spec.order)
    return each(affine, lambda array: array.transpose(order))


def after_transpose(_: Graph, op: Op, affine: Affine) -> Affine:
    """Axis i of the output is axis order[i] of the input."""
    assert isinstance(op.spec, Transpose)
    order = op.spec.order
    return each(affine, lambda array: array.transpose(order))


def before_shuffle(_: Graph, op: Op, affine: Affine) -> Affine:
    """From a pixel shuffle's result to its input."""
    assert isinstance(op.spec, PixelShuffle)
    return _to_small(op, affine) if op.spec.inverse else _to_blocks(op, affine)


def after_shuffle(_: Graph, op: Op, affine: Affine) -> Affine:
    """From a pixel shuffle's input to its result."""
    assert isinstance(op.spec, PixelShuffle)
    return _to_blocks(op, affine) if op.spec.inverse else _to_small(op, affine)


def reshaped(array: Floats, source: Shape, target: Shape) -> Floats:
    """A map over `source` as one over `target`: rows of axes that hold the same elements."""
    wide: list[int] = []
    final: list[int] = []
    for first, second in _groups(source, target) or _from_the_end(source, target):
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
    if int(np.prod(wide, dtype=object)) > MAX_SIZE:
        raise Stuck("its scale and shift differ at too many places")
    result = np.broadcast_to(array, wide).reshape(final)
    for axis in range(result.ndim):
        small = constant_along(result, (axis,))
        result = result if small is None else small
    return result


def _integers(sizes: Sequence[int | str]) -> list[int]:
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) != len(sizes):
        raise free_size("a reshape mixes its channels with an axis of unknown size")
    return known


def _from_the_end(source: Shape, target: Shape) -> list[_Row]:
    """The last axes, where they are the same, and the others, which then hold equally many."""
    same = 0
    for first, second in zip(reversed(source), reversed(target), strict=False):
        if first != second or not isinstance(first, int):
            break
        same += 1
    if not same:
        raise Stuck("a reshape in between is not understood")
    heads = source[:-same], target[:-same]
    return [heads, *(((size,), (size,)) for size in source[-same:])]


def _groups(source: Shape, target: Shape) -> list[_Row] | None:
    """Runs of source axes and of target axes that hold equally many elements, if sizes tell."""
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
                return None
        groups.append((source[start:i], target[begin:j]))
    rest = source[i:], target[j:]
    if any(size != 1 for size in (*rest[0], *rest[1])):
        return None
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


def _to_blocks(op: Op, affine: Affine) -> Affine:
    """(N, C, 1, 1) -> (N, C*r*r, 1, 1): all places of a block have their channel's map."""
    assert isinstance(op.spec, PixelShuffle)
    affine = collapsed(affine, (2, 3), f"{op.called} rearranges positions")
    block = op.spec.factor**2
    if is_even(affine, 1):
        return affine
    if op.spec.depth_last:
        return each(affine, lambda array: np.tile(array, (1, block, 1, 1)))
    return each(affine, lambda array: np.repeat(array, block, axis=1))


def _to_small(op: Op, affine: Affine) -> Affine:
    """(N, C*r*r, 1, 1) -> (N, C, 1, 1): the map that all places of a block have."""
    assert isinstance(op.spec, PixelShuffle)
    affine = collapsed(affine, (2, 3), f"{op.called} rearranges positions")
    block = op.spec.factor**2
    if is_even(affine, 1):
        return affine
    sizes, axis = ((block, -1), 1) if op.spec.depth_last else ((-1, block), 2)

    def common(array: Floats) -> Floats:
        small = constant_along(array.reshape(array.shape[0], *sizes, 1, 1), (axis,))
        if small is None:
            raise Stuck(f"{op.called} mixes its channels")
        return np.squeeze(small, axis)

    return each(affine, common)
