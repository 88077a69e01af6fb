"""Convolutions whose groups follow from a free size: in ONNX they are a fixed number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bncheck.core.errors import BncheckError
from bncheck.graph.program.calls import operator_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.export import ExportedProgram

#: Which argument the groups are.
_GROUPS = {
    **{f"conv{rank}d": 6 for rank in (1, 2, 3)},
    **{f"conv_transpose{rank}d": 6 for rank in (1, 2, 3)},
    "convolution": 8,
}


def free_groups(program: ExportedProgram) -> BncheckError | None:
    """What stands in the way of such a program, and what can be done; None where there is none."""
    for node in program.graph.nodes:
        place = _GROUPS.get(operator_name(node), 0) if node.op == "call_function" else 0
        symbols = _symbols(node.args[place]) if 0 < place < len(node.args) else set()
        if symbols:
            return _refused(operator_name(node), list(_axes(program, symbols)))
    return None


def _symbols(size: Any) -> set[str]:
    """The free sizes in a size: of a node, or as it is."""
    value = getattr(size, "meta", {}).get("val", size)
    expression = getattr(getattr(value, "node", None), "expr", None)
    return set(map(str, getattr(expression, "free_symbols", ())))


def _axes(program: ExportedProgram, symbols: set[str]) -> Iterator[tuple[str, int]]:
    """The inputs and axes that have these sizes."""
    from bncheck.folding.program.exporting import user_inputs

    for node in user_inputs(program):
        for axis, size in enumerate(getattr(node.meta.get("val"), "shape", ())):
            if symbols & _symbols(size):
                yield node.name, axis


def _refused(call: str, axes: list[tuple[str, int]]) -> BncheckError:
    batch = all(axis == 0 for _, axis in axes)
    what = "the batch" if batch else " and ".join(f"axis {axis} of {name}" for name, axis in axes)
    return BncheckError(
        f"calls {call} with groups that depend on {what}, and in ONNX they are a fixed number",
        "give --static-batch (a .pt2: make it with that size fixed)"
        if batch
        else "leave that axis static",
    )
