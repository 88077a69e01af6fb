"""A map on the one side of a reshape as a map on the other."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from bncheck.folding.planner.maps import MAX_SIZE, Stuck, constant_along
from bncheck.graph.dataflow import Floats, Shape

_COEFFICIENT = re.compile(r"\d+")
_SYMBOL = re.compile(r"\?.+|[A-Za-z_]\w*")  # "?..." names a size of which nothing is known
_Row = tuple[Sequence["int | str"], Sequence["int | str"]]


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


def _from_the_end(source: Shape, target: Shape) -> list[_Row]:
    """The last axes, where they are the same, and the others, which then hold equally many."""
    same = 0
    for first, second in zip(reversed(source), reversed(target), strict=False):
        if first != second or not isinstance(first, int):
            break
        same += 1
    if not same:
        raise Stuck("a reshape between is not understood")
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
