"""BN118."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.core.thresholds import DEAD_VARIANCE
from bncheck.layers.norm_layer import NormLayer
from bncheck.rules.rule import Network, Rule, rule


@rule("BN118", "half-loaded-statistics", Severity.ERROR)
def half_loaded(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """One half of a layer's statistics was never loaded: it holds what a new layer starts with.

    A classic of ports: `moving_mean` was copied and `moving_variance` had another name. The layer
    then shifts right and does not scale, or the other way round.

    Criterion: running variance exactly 1 in every channel beside means that are not all 0, or
    running mean exactly 0 in every channel beside variances that are not all 1 and have not decayed
    (below 1e-10). Training cannot give that: each update moves both.

    Fix: load the missing half under its name in the source; or recalibrate with data.
    """
    for layer in network.suspects(lambda c: c.all(c.mean == 0) | c.all(c.var == 1)):
        half = missing_half(layer)
        if half is not None:
            kept, other = ("variance", "means") if half == "var" else ("mean", "variances")
            value = 1 if half == "var" else 0
            load = f"load the {kept}s under their name in the source"
            yield self.finding(
                Severity.ERROR,
                layer.name,
                f"running {kept} is exactly {value} in all {layer.channels} channels beside "
                f"trained {other}: one half of the statistics was never loaded",
                f"{load}, or recalibrate with data",
                instead=load,
                half=kept,
            )


def missing_half(layer: NormLayer) -> str | None:
    """Which of "mean" and "var" is still at its initial value beside a trained other half."""
    if layer.statistics is None or not layer.channels:
        return None
    mean, var = layer.statistics
    fresh_mean, fresh_var = bool((mean == 0).all()), bool((var == 1).all())
    if fresh_mean == fresh_var:
        return None
    if fresh_var:
        return "var"
    return "mean" if bool((var > np.float64(DEAD_VARIANCE)).any()) else None
