"""Distributions as a line of blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bncheck.core.thresholds import DEAD_VARIANCE

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

_BLOCKS = " ▁▂▃▄▅▆▇█"
BINS = 12


def log_range(arrays: Sequence[Array | None]) -> tuple[float, float] | None:
    """The powers of ten that hold all positive numbers, or None where there are none.

    Dead channels end the scale: down to 1e-45 there would be nothing else to see.
    """
    import numpy as np

    given = [array.ravel().astype(np.float64) for array in arrays if array is not None]
    values = np.concatenate([*given, np.zeros(0)])
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size:
        return None
    low = max(math.floor(math.log10(values.min())), round(math.log10(DEAD_VARIANCE)))
    return float(low), float(max(math.ceil(math.log10(values.max())), low + 1))


def histogram(array: Array | None, scale: tuple[float, float]) -> str:
    """How many of the positive numbers fall into each of 12 equal steps of the log scale."""
    import numpy as np

    if array is None:
        return ""
    values = array.astype(np.float64)
    values = values[np.isfinite(values) & (values > 0)]
    # As np.histogram would count, without its checks, which take most of its time.
    edges = np.linspace(*scale, BINS + 1)[1:-1]
    counts = np.bincount(np.searchsorted(edges, np.log10(values), side="right"), minlength=BINS)
    return bars(counts.tolist())


def bars(counts: Sequence[int]) -> str:
    """Counts as blocks, the largest whole; what is not empty is seen."""
    top = max(1, *counts)
    steps = len(_BLOCKS) - 1
    return "".join(_BLOCKS[math.ceil(number / top * steps)] for number in counts)
