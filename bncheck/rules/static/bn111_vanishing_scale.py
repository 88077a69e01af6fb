"""BN111."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import count
from bncheck.layers.facts import median
from bncheck.rules.rule import Network, Rule, rule

if TYPE_CHECKING:
    from bncheck.layers.channels import Channels, Flags

_SHARE = 1e-2


def _spreads(c: Channels) -> Flags:
    """Whether the smallest weight is far below the largest, which the median is not above."""
    scale = np.abs(c.weight)
    return c.least(scale) <= _SHARE * c.most(scale)


@rule("BN111", "vanishing-scale", Severity.INFO)
def vanishing_scale(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """Channels whose weight is next to nothing contribute only their bias.

    They can be pruned (Network Slimming, arXiv 1708.06519). A layer whose weights are all exactly
    zero is a zero-initialised residual branch that was never trained.

    Criterion: |weight| below a hundredth of the layer's median, or all weights exactly zero.

    Fix: none needed.
    """
    for layer in network.suspects(_spreads):
        if layer.weight is None or not layer.weight.size:
            continue
        scale = np.abs(layer.weight.astype(np.float64))
        if not np.isfinite(scale).all():
            continue
        if not scale.any():
            yield self.finding(
                Severity.INFO,
                layer.name,
                f"all {layer.channels} weights are exactly 0: the branch is switched off",
                "nothing, if it is a residual branch that starts at zero and was left there",
                channels=layer.channels,
            )
            continue
        small = int((scale < _SHARE * median(scale)).sum())
        if small:
            yield self.finding(
                Severity.INFO,
                layer.name,
                f"{small} of {count(layer.channels, 'channel')} with a weight below a hundredth of "
                "the median",
                "nothing needed; they can be pruned",
                channels=small,
            )
