"""Distributions as a line of blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

_BLOCKS = " ▁▂▃▄▅▆▇█"
_BINS = 16


def log_range(arrays: Sequence[Array | None]) -> tuple[float, float] | None:
    """The powers of ten that hold all positive numbers, or None where there are none."""
    logs = [bound for array in arrays for bound in _log_bounds(array)]
    if not logs:
        return None
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    return float(low), float(max(high, low + 1))


def _log_bounds(array: Array | None) -> list[float]:
    import numpy as np

    if array is None:
        return []
    values = array.astype(np.float64)
    values = values[np.isfinite(values) & (values > 0)]
    return [math.log10(values.min()), math.log10(values.max())] if values.size else []


def histogram(array: Array | None, scale: tuple[float, float]) -> str:
    """How many of the positive numbers fall into each of 16 equal steps of the log scale."""
    import numpy as np

    if array is None:
        return ""
    values = array.astype(np.float64)
    values = values[np.isfinite(values) & (values > 0)]
    counts, _ = np.histogram(np.log10(values), bins=_BINS, range=scale)
    top = max(1, int(counts.max()))
    steps = len(_BLOCKS) - 1
    return "".join(_BLOCKS[math.ceil(int(number) / top * steps)] for number in counts)
