"""Sizes of a torch.export program, without torch."""

from __future__ import annotations

from typing import Any


def fixed_size(size: Any) -> int | None:
    """A size that is a number, whether torch calls it one or not; None for a free one."""
    if isinstance(size, int):
        return size
    return int(size.node.expr) if size.node.expr.is_number else None
