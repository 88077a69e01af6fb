"""Averages that were updated too rarely, repaired without data.

An average that began at 0 and 1 and was updated t times with momentum m still holds w0 = (1-m)^t of
them, so (mean / (1-w0), (var - w0) / (1-w0)) is what it would be without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.layers.facts import at_initial_statistics, initial_share, predicted_w2
from bncheck.layers.norm_layer import NormLayer
from bncheck.recalibrating.counters import SETTLED, new_counters
from bncheck.recalibrating.report import RecalibrationReport

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def repair_without_data(layers: Sequence[NormLayer], subject: str) -> RecalibrationReport:
    """Take the initial 0 and 1 out of averages that were updated too rarely."""
    statistics: dict[str, tuple[Floats, Floats]] = {}
    before: dict[str, float | None] = {}
    for layer in layers:
        if layer.statistics is None or at_initial_statistics(layer):
            continue
        w0 = initial_share(layer)
        if layer.momentum.known and SETTLED < w0 < 1:
            mean, var = layer.statistics
            before[layer.name] = predicted_w2(layer, w0)
            repaired = np.maximum((var - w0) / (1 - w0), 0.0)
            statistics[layer.name] = (mean / (1 - w0), repaired)
    if not statistics:
        raise BncheckError(
            "has no average that can be repaired without data (its momentum and batch counter "
            "would have to say that it is under-warmed)",
            "give --model and --data, and if you know it --momentum",
            subject,
        )
    names = tuple(statistics)
    after: dict[str, float | None] = dict.fromkeys(names)  # only data could tell
    counters = new_counters([layer for layer in layers if layer.name in statistics])
    return RecalibrationReport(names, before, after, statistics, counters, method="formula")
