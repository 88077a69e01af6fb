"""Where a value goes on in another dtype: docs/folding.md, "Casts".

A map does not commute with rounding. Of 288 + x, float16 keeps two bits behind the point, and
of 70000 nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from bncheck.folding.planner.maps import Stuck
from bncheck.graph.dataflow import Graph, Op
from bncheck.graph.specs import (
    Expand,
    Gather,
    Identity,
    Maximum,
    Rectifier,
    Reshape,
    Transpose,
)

#: Bits of significand and of exponent.
_BITS = {"bfloat16": (8, 8), "float16": (11, 5), "float32": (24, 8), "float64": (53, 11)}
#: These make no number larger, nor add one to another: rounding before them is rounding behind.
_KEEPING = (Identity, Rectifier, Reshape, Transpose, Maximum, Expand, Gather)
_HINT = "with one dtype on both sides of it, it could be folded"


def changes_dtype(graph: Graph, op: Op, slot: int = 0) -> bool:
    """Whether the result of a call is of another dtype than an input."""
    return _dtype(graph, op.inputs[slot]) != _dtype(graph, op.outputs[0])


def check_onward(graph: Graph, op: Op, slots: Sequence[int]) -> None:
    """Stuck where the results of a call do not hold every number of these inputs as it is."""
    for slot in slots:
        if changes_dtype(graph, op, slot):
            before, after = _dtype(graph, op.inputs[slot]), _dtype(graph, op.outputs[0])
            if not isinstance(op.spec, Identity) or not _holds(after, before):
                raise Stuck(_rounds(op, before, after), _HINT)


def check_back(
    graph: Graph, op: Op, slots: Sequence[int], through: Sequence[int], result: str
) -> None:
    """Stuck where a map of a call's result would round otherwise as one of these inputs.

    Behind a cast to more bits, `result` is not rounded to the fewer bits before it, unless all
    that read it round it to these; `through` are the calls that lie between.
    """
    for slot in slots:
        if not changes_dtype(graph, op, slot):
            continue
        before, after = _dtype(graph, op.inputs[slot]), _dtype(graph, op.outputs[0])
        if not isinstance(op.spec, Identity) or not _holds(after, before):
            raise Stuck(_rounds(op, before, after), _HINT)
        keeps = all(isinstance(graph.ops[i].spec, _KEEPING) for i in through)
        if not (keeps and _is_rounded(graph, result, before)):
            raise Stuck(
                f"a cast from {before} lies between, so that its result would be rounded to "
                f"{before}",
                _HINT,
            )


def _is_rounded(graph: Graph, name: str, dtype: str) -> bool:
    """Whether all that read a value make numbers of it that this dtype holds."""
    uses = graph.uses.get(name, [])
    if not uses or name in graph.outputs:
        return False
    readers = [graph.ops[use.op] for use in uses]
    return all(
        isinstance(op.spec, _KEEPING)
        and (
            _holds(dtype, _dtype(graph, op.outputs[0])) or _is_rounded(graph, op.outputs[0], dtype)
        )
        for op in readers
    )


def _rounds(op: Op, before: str, after: str) -> str:
    if not before or not after:
        return f"{op.label} ({op.kind}) lies between, whose dtypes are not known"
    if isinstance(op.spec, Identity):
        return f"a cast to {after} lies between, which rounds"
    return f"{op.label} ({op.kind}) lies between, which turns {before} into {after}"


def _holds(dtype: str, other: str) -> bool:
    """Whether a dtype has every number of another."""
    if dtype not in _BITS or other not in _BITS:
        return False
    return all(mine >= its for mine, its in zip(_BITS[dtype], _BITS[other], strict=True))


def _dtype(graph: Graph, name: str | None) -> str:
    value = graph.values.get(name or "")
    return value.dtype if value else ""
