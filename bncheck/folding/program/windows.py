"""How much of a map shows what a region does: a few places, where its calls treat all alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from bncheck.folding.difference import Output
from bncheck.graph.dataflow import Graph, Op
from bncheck.graph.program.calls import Arguments
from bncheck.graph.specs import Add, Conv, ConvTranspose, Identity, Mul, Norm, Pointwise, Rectifier

#: Places along each axis of a line, a plane and a volume beside those that a kernel sees.
_PLACES = {1: 16, 2: 4, 3: 3}
_POOLS = frozenset(f"{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3))


def reach_of(calls: Iterable[Node], entries: Iterable[Node], graph: Graph) -> int | None:
    """How much of each axis of a map shows what these calls do; None where all of it is needed.

    So much that every number of every kernel meets values that are not padding.
    """
    maps: list[Any] = [node.meta.get("val") for node in entries]
    if not all(isinstance(m, torch.Tensor) and m.is_floating_point() and m.dim() > 2 for m in maps):
        return None
    sizes = {tuple(map(str, m.shape[2:])) for m in maps}
    if len(sizes) != 1:
        return None
    axes = len(next(iter(sizes)))
    ops = {op.name: op for op in graph.ops}
    reach, stride = _PLACES.get(axes, 3), 1
    for node in calls:
        op = ops.get(node.name)
        if op is None or not _treats_places_alike(op, graph, axes):
            return None
        if op.kind in _POOLS or isinstance(op.spec, (Conv, ConvTranspose)):
            seen, step = _kernel(node, op, graph, axes)
            reach += seen * stride
            stride *= step
    return reach


def _treats_places_alike(op: Op, graph: Graph, axes: int) -> bool:
    """Whether a call does not know where in the map it is, and no constant has numbers by place."""
    if isinstance(op.spec, (Conv, ConvTranspose)):
        return all(graph.is_constant(name) for name in op.inputs[1:] if name)
    if isinstance(op.spec, (Norm, Rectifier)) or op.kind in _POOLS:
        return True
    shapes = [graph.shape(name) or () for name in op.inputs if graph.is_constant(name)]
    return isinstance(op.spec, (Add, Mul, Identity, Pointwise)) and all(
        math.prod(map(_as_number, shape[max(0, len(shape) - axes) :])) == 1 for shape in shapes
    )


def _as_number(size: int | str) -> int:
    return size if isinstance(size, int) else 0


def _kernel(node: Node, op: Op, graph: Graph, axes: int) -> tuple[int, int]:
    """How far a kernel sees beside its own place, and its step."""
    given = Arguments(node)
    shape = graph.shape(op.input(1)) or ()
    sizes = [*map(_as_number, shape[2:])] or _each(given("kernel_size"), axes)
    gaps = _each(given("dilation", 1), axes)
    strides = _each(given("stride"), axes) or sizes
    seen = max(((k - 1) * gap for k, gap in zip(sizes, gaps, strict=True)), default=0)
    return seen, max(strides, default=1)


def _each(given: Any, axes: int) -> list[int]:
    """A setting of each axis; an empty one stays empty."""
    numbers = [given] if isinstance(given, int) else list(given or ())
    return [int(n) for n in numbers] * (axes if len(numbers) == 1 else 1)


def middle(value: Output, reach: int) -> Output:
    """The middle of the maps of one sample, a copy."""
    first = [max(0, (size - reach) // 2) for size in value.shape[2:]]
    where = (slice(0, 1), slice(None), *(slice(f, f + reach) for f in first))
    return value[where].copy()


def kept(reaches: Mapping[str, Sequence[int | None]]) -> dict[str, int | None]:
    """How much of each value to keep, by what its readers need."""
    return {
        name: None if None in needed else max(n for n in needed if n is not None)
        for name, needed in reaches.items()
    }
