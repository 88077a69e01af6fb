"""Casts on the way of a map: docs/folding.md, "Narrower dtypes".

A map that moves past a cast changes what is rounded there. In front of `bn(x).half()`, x = 288 +- 1
loses a tenth of its spread, and 70000 becomes infinite, while the result of the norm fits.
"""

from __future__ import annotations

import math

import numpy as np

from bncheck.folding.algebra import limits_of
from bncheck.folding.planner.draft import Moving, Step
from bncheck.folding.planner.maps import Stuck, settled
from bncheck.folding.planner.normalisations import Slot
from bncheck.graph.dataflow import Graph
from bncheck.graph.specs import Identity, Norm, Rectifier, Reshape, Transpose

#: What gives numbers of a dtype for numbers of that dtype, whatever dtype it computes in.
_EXACT = (Identity, Rectifier, Reshape, Transpose)
#: Values of a normalisation are taken to lie within so many standard deviations.
_REACH = 64.0


def check_narrow(graph: Graph, moving: Moving, step: Step) -> None:
    """Raise Stuck where a value would change that has a narrower dtype than the normalisation,
    and might not hold what it would have to."""
    if moving.output not in step.altered:
        _check_rounding(graph, step)
    wide = graph.values[moving.output].dtype
    for name in sorted(step.altered):
        narrow = graph.values[name].dtype if name in graph.values else ""
        if not _is_narrower(narrow, wide):
            continue
        if moving.output not in step.altered:
            _check_pulled(graph, moving, narrow, wide)
        # What a normalisation of each sample gives is of size 1 without its affine.
        elif not moving.norm.only_forwards and not _comes_from(graph, moving.source, narrow):
            raise Stuck(
                f"behind it {wide} becomes {narrow}, a cast that would round its input",
                "with the cast before it, it could be folded",
            )


def _check_rounding(graph: Graph, step: Step) -> None:
    """No map passes what rounds against the data either: float16 knows 288 +- 1 by quarters."""
    for name in sorted(step.altered & graph.producers.keys()):
        op = graph.ops[graph.producers[name]]
        narrow = graph.values[name].dtype
        for source in op.inputs:
            if source is None or source not in step.altered:
                continue
            wide = graph.values[source].dtype
            if _is_narrower(narrow, wide) and not _comes_from(graph, source, narrow):
                raise Stuck(
                    f"a cast to {narrow} lies between, which rounds",
                    f"with {narrow} before it, or {wide} behind it, it could be folded",
                )


def _check_pulled(graph: Graph, moving: Moving, narrow: str, wide: str) -> None:
    fits = _reach(graph, moving, narrow) <= limits_of(narrow).largest
    if not fits and not _goes_to(graph, moving.output, narrow):
        raise Stuck(
            f"before it values are {narrow}, which its result, in {wide}, may not fit in",
            f"with {wide} before it, too, it could be folded",
        )


def _reach(graph: Graph, moving: Moving, narrow: str) -> float:
    """The largest number that the result is expected to hold.

    By the running statistics; without any, of inputs up to the root of the largest number.
    """
    map_, op = settled(moving.affine), graph.ops[moving.norm.last]
    scale, shift = (a.reshape(-1) for a in np.broadcast_arrays(map_.scale, map_.shift))
    slots = (Slot.MEAN, Slot.VARIANCE) if isinstance(op.spec, Norm) else ()
    mean, var = [graph.constant(op.input(slot)) for slot in slots] or (None, None)
    if mean is not None and var is not None and mean.size == var.size == scale.size:
        center, spread = scale * mean.reshape(-1) + shift, np.abs(scale) * np.sqrt(var.reshape(-1))
        return float(np.max(np.abs(center) + _REACH * spread, initial=0.0))
    root = math.sqrt(limits_of(narrow).largest)
    return float(np.max(np.abs(shift) + np.abs(scale) * root, initial=0.0))


def _comes_from(graph: Graph, name: str, narrow: str) -> bool:
    """Whether a value's numbers are of that dtype already."""
    if graph.values[name].dtype == narrow:
        return True
    index = graph.producers.get(name)
    op = graph.ops[index] if index is not None else None
    source = op.inputs[0] if op is not None and isinstance(op.spec, _EXACT) else None
    return source is not None and _comes_from(graph, source, narrow)


def _goes_to(graph: Graph, name: str, narrow: str) -> bool:
    """Whether a value's numbers are cast to that dtype before anything else is computed of them."""
    if graph.values[name].dtype == narrow:
        return True
    readers = [graph.ops[use.op] for use in graph.uses.get(name, [])]
    exact = all(isinstance(op.spec, _EXACT) for op in readers)
    further = bool(readers) and exact and name not in graph.outputs
    return further and all(_goes_to(graph, op.outputs[0], narrow) for op in readers)


def _is_narrower(dtype: str, than: str) -> bool:
    """Whether a floating dtype lacks digits or range that another one has."""
    if not dtype or not than or dtype == than:
        return False
    mine, other = limits_of(dtype), limits_of(than)
    return mine.digits < other.digits or mine.largest < other.largest
