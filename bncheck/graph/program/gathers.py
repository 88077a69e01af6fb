"""Calls that pick elements along axes, as the planner sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from bncheck.graph.dataflow import Gather
from bncheck.graph.program.calls import Arguments, Described, rank_of

_FLIPS = {"fliplr": [1], "flipud": [0]}
Picks = tuple[tuple[int, "tuple[int, ...] | None"], ...]


def picks(
    node: Node, name: str, a: Arguments, constant: Callable[[Node], torch.Tensor | None]
) -> Described | None:
    """Flips, rolls, repetitions, channel shuffles, and selections by a vector of indices."""
    source = node.args[0] if node.args else None
    rank = rank_of(source)
    if not isinstance(source, Node) or not rank:
        return None
    shape = source.meta["val"].shape
    found: Picks | None = None
    if name in _FLIPS:
        found = _moved(shape, _FLIPS[name], lambda i, _: i[::-1])
    elif name == "flip":
        found = _moved(shape, a("dims"), lambda i, _: i[::-1])
    elif name == "roll" and len(a("dims") or ()) == len(a("shifts")):
        found = _moved(shape, a("dims"), lambda i, place: np.roll(i, a("shifts")[place]))
    elif name in ("repeat", "tile"):
        found = _repeated(shape, a.first("repeats", "dims"))
    elif name == "repeat_interleave" and isinstance(a("repeats"), int) and a("dim") is not None:
        found = _moved(shape, [a("dim")], lambda i, _: np.repeat(i, a("repeats")))
    elif name in ("channel_shuffle", "native_channel_shuffle"):
        found = _moved(shape, [1], lambda i, _: i.reshape(a("groups"), -1).T.reshape(-1))
    elif name == "index_select":
        found = _selected(shape, int(a("dim")) % rank, node.args[2], constant)
    elif name == "index":
        given = [i for i, index in enumerate(a("indices")) if index is not None]
        if len(given) == 1:
            found = _selected(shape, given[0], a("indices")[given[0]], constant)
    return None if found is None else (Gather(found), (source,))


def _moved(shape: Sequence[Any], dims: Sequence[int], move: Any) -> Picks:
    rows = []
    for place, dim in enumerate(dims):
        axis = int(dim) % len(shape)
        size = shape[axis]
        known = isinstance(size, int)
        rows.append((axis, tuple(map(int, move(np.arange(size), place))) if known else None))
    return tuple(rows)


def _repeated(shape: Sequence[Any], repeats: Any) -> Picks | None:
    counts = [1] * (len(shape) - len(repeats)) + list(repeats)
    if len(counts) != len(shape) or not all(isinstance(count, int) for count in counts):
        return None
    axes = [i for i, count in enumerate(counts) if count != 1]
    return _moved(shape, axes, lambda i, place: np.tile(i, counts[axes[place]]))


def _selected(
    shape: Sequence[Any], axis: int, index: Any, constant: Callable[[Node], torch.Tensor | None]
) -> Picks | None:
    value = index.meta.get("val") if isinstance(index, Node) else None
    if not isinstance(value, torch.Tensor) or value.dim() != 1 or value.dtype == torch.bool:
        return None
    numbers, size = constant(index), shape[axis]
    if numbers is None or not isinstance(size, int):
        return ((axis, None),)
    return ((axis, tuple(int(i) % size for i in numbers)),)
