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
from bncheck.graph.dataflow import Floats, Graph
from bncheck.graph.specs import Identity, Norm, Rectifier, Reshape, Transpose

#: What gives numbers of a dtype for numbers of that dtype, whatever dtype it computes in.
_EXACT = (Identity, Rectifier, Reshape, Transpose)
#: Values of a normalisation are taken to lie within so many standard deviations.
_REACH = 64.0
#: Much of a spread is lost where a unit in the last place is more than this part of it.
_COARSE = 1 / 32


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
                f"cast to {narrow} before it, not behind it",
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
                    f"cast to {narrow} behind it, not before it",
                )


def _check_pulled(graph: Graph, moving: Moving, narrow: str, wide: str) -> None:
    if _goes_to(graph, moving.output, narrow):
        return
    instead = f"let what is before it compute in {wide}, too"
    if _reach(graph, moving, narrow) > limits_of(narrow).largest:
        raise Stuck(
            f"before it values are {narrow}, which its result, in {wide}, may not fit in", instead
        )
    if _is_coarse(graph, moving, narrow):
        raise Stuck(
            f"before it values are {narrow}, which would round its result, in {wide}, by much of "
            "its spread",
            instead,
        )


def _statistics(graph: Graph, moving: Moving) -> tuple[Floats, Floats] | None:
    """The running mean and deviation of what a normalisation reads, where it has them."""
    op = graph.ops[moving.norm.last]
    slots = (Slot.MEAN, Slot.VARIANCE) if isinstance(op.spec, Norm) else ()
    mean, var = [graph.constant(op.input(slot)) for slot in slots] or (None, None)
    size = np.broadcast_arrays(moving.affine.scale, moving.affine.shift)[0].size
    if mean is None or var is None or not mean.size == var.size == size:
        return None
    return mean.reshape(-1), np.sqrt(var.reshape(-1))


def _reach(graph: Graph, moving: Moving, narrow: str) -> float:
    """The largest number that the result is expected to hold.

    By the running statistics; without any, of inputs up to the root of the largest number.
    """
    scale, shift = _vectors(moving)
    known = _statistics(graph, moving)
    if known is None:
        reach: Floats = np.abs(shift) + np.abs(scale) * math.sqrt(limits_of(narrow).largest)
    else:
        mean, deviation = known
        reach = np.abs(scale * mean + shift) + _REACH * np.abs(scale) * deviation
    return float(np.max(reach, initial=0.0))


def _is_coarse(graph: Graph, moving: Moving, narrow: str) -> bool:
    """Whether a channel's result is rounded by much of its spread, and its input by much less.

    Without statistics, inputs are taken to be of size 1. A channel that hardly varies is left out.
    """
    scale, shift = _vectors(moving)
    mean, deviation = _statistics(graph, moving) or (np.zeros_like(scale), np.ones_like(scale))
    center, spread = np.abs(scale * mean + shift), np.abs(scale) * deviation
    rounded = center * 2.0 ** -limits_of(narrow).digits > _COARSE * spread
    coarser = center > 4 * np.abs(scale) * (np.abs(mean) + deviation)
    varies = spread > 1e-3 * np.max(spread, initial=0.0)
    return bool(np.any(rounded & coarser & varies))


def _vectors(moving: Moving) -> tuple[Floats, Floats]:
    map_ = settled(moving.affine)
    scale, shift = np.broadcast_arrays(map_.scale, map_.shift)
    return scale.reshape(-1), shift.reshape(-1)


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
