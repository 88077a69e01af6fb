"""What users should know of a batch whose size is not free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.export import ExportedProgram

from bncheck.folding.program.exporting import batch_sizes, user_inputs
from bncheck.folding.program.sizes import fixed_size


def fixed_batch(program: ExportedProgram, batch_axes: Sequence[int | None] = ()) -> int | None:
    """How many samples a program takes where that cannot be chosen."""
    sizes = batch_sizes(_values(program), batch_axes)
    fixed = [known for size in sizes if (known := fixed_size(size)) is not None]
    return fixed[0] if fixed and len(fixed) == len(sizes) else None


def who_fixes(*, given: bool) -> str:
    """What fixes an axis: the program that was `given`, or torch.export.

    That may be the model, as in x.view(2, -1), or an operator that torch traces at one size.
    """
    return "the program" if given else "torch.export"


def batch_notes(
    program: ExportedProgram, batch_axes: Sequence[int | None] = (), *, given: bool
) -> tuple[str, ...]:
    """That the batch is fixed, which nobody asked for, and the option that changes it."""
    size = fixed_batch(program, batch_axes)
    if size is None:
        return ()
    axes = [axis for value in _values(program) for axis in getattr(value, "shape", ())]
    other = not batch_axes and any(fixed_size(axis) is None for axis in axes)
    what = "the first axis of the inputs" if other else "the batch"
    said = f"{who_fixes(given=given)} fixes {what} at {size}: the result takes no other size"
    if given or other or size == 1:
        return (said,)
    return (f"{said}; --static-batch makes it 1 (in Python, an example of one sample)",)


def _values(program: ExportedProgram) -> list[Any]:
    return [node.meta.get("val") for node in user_inputs(program)]
