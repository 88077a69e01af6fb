"""Batch counters to go with new averages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from bncheck.layers.facts import initial_share
from bncheck.layers.norm_layer import NormLayer

#: A counter that leaves more than this of the initial values in the average is set anew.
SETTLED: Final = 1e-3


def new_counters(layers: Sequence[NormLayer]) -> dict[str, int]:
    """Counters to write, so that the new averages do not look under-warmed.

    The smallest t with (1-m)^t at most 0.001, the same for all layers; none where the old counters
    say as much already.
    """
    needed = 0
    for layer in layers:
        momentum = layer.momentum.value
        share = initial_share(layer)
        if momentum is not None and share > SETTLED and 0 < momentum < 1:
            needed = max(needed, math.ceil(math.log(SETTLED) / math.log1p(-momentum)))
    if not needed:
        return {}
    return {layer.name: needed for layer in layers if layer.counter is not None}
