"""How a map passes through a call that has no weights: a table from operator to two functions.

docs/folding.md, "Passing". Each raises Stuck, with a reason for people, where the result would not
be exactly the same function. A new operator is one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bncheck.folding.algebra import Affine
from bncheck.folding.planner import cutting_and_joining as parts
from bncheck.folding.planner import pooling, reshaping
from bncheck.folding.planner.maps import Stuck
from bncheck.graph.dataflow import Graph, Op
from bncheck.graph.specs import (
    Attended,
    Average,
    Chosen,
    Concat,
    Expand,
    Gather,
    Identity,
    Larger,
    Maximum,
    Ordered,
    Pad,
    PixelShuffle,
    Rectifier,
    Reshape,
    RunningSum,
    Split,
    Transpose,
)

#: From the map of a call's only result to that of its only input, or the other way round.
_OneToOne = Callable[[Graph, Op, Affine], Affine]


def pulled_through(graph: Graph, op: Op, wanted: Sequence[Affine]) -> list[Affine]:
    """The maps that the inputs must take so that result i takes `wanted[i]`."""
    if isinstance(op.spec, Concat):
        return parts.parts_of(graph, op, wanted[0])
    if isinstance(op.spec, Split):
        return [parts.whole_of(graph, op, wanted)]
    if isinstance(op.spec, Larger):
        return pooling.before_larger(graph, op, wanted[0])
    return [_passage(op)[0](graph, op, wanted[0])]


def pushed_through(graph: Graph, op: Op, given: Mapping[int, Affine]) -> list[Affine]:
    """The maps that the results take when input i (by slot) takes `given[i]`."""
    if isinstance(op.spec, Concat):
        return [parts.joined(graph, op, given)]
    through = None if isinstance(op.spec, Split) else _passage(op)[1]
    if set(given) != {0}:
        if isinstance(op.spec, Attended):
            raise Stuck(f"{op.called} computes its weights from it")
        raise Stuck(f"{op.called} reads it as another operand than its data")
    return [through(graph, op, given[0])] if through else parts.cuts_of(op, given[0])


def _passage(op: Op) -> tuple[_OneToOne, _OneToOne]:
    found = _PASSAGES.get(type(op.spec))
    if found is None and op.kind == "view":
        raise Stuck(f"{op.called} lies between and reads its bits as another dtype")
    if found is None and op.kind == "as_strided":
        raise Stuck(
            f"{op.called} lies between and reads its memory place by place",
            f"make {op.called} a reshape",
            (op, Reshape()),
        )
    if found is None:
        raise Stuck(f"{op.called} lies between, and bncheck moves no affine map through it")
    return found


def _unchanged(_: Graph, __: Op, affine: Affine) -> Affine:
    return affine


def _through_rectifier(_: Graph, op: Op, affine: Affine) -> Affine:
    """f(a x) = a f(x) for a >= 0."""
    assert isinstance(op.spec, Rectifier)
    if affine.shifts or np.any(affine.scale < 0):
        raise Stuck(
            f"{op.label} ({op.spec.name}) lies between, and only a positive scale without a "
            "shift passes through it"
        )
    return affine


#: Against the data, and with it.
_PASSAGES: Mapping[type, tuple[_OneToOne, _OneToOne]] = {
    Identity: (_unchanged, _unchanged),
    Rectifier: (_through_rectifier, _through_rectifier),
    Pad: (pooling.before_padding, pooling.after_padding),
    **dict.fromkeys(
        (Average, RunningSum, Attended, Maximum, Ordered),
        (pooling.before_reduction, pooling.after_reduction),
    ),
    Reshape: (reshaping.before_reshape, reshaping.after_reshape),
    Expand: (reshaping.before_expansion, reshaping.after_expansion),
    Transpose: (reshaping.before_transpose, reshaping.after_transpose),
    PixelShuffle: (reshaping.before_shuffle, reshaping.after_shuffle),
    **dict.fromkeys((Gather, Chosen), (parts.picked_from, parts.picked)),
}
