"""BN105."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import count
from bncheck.layers.facts import (
    at_initial_statistics,
    initial_share,
    initial_shares,
    predicted_w2,
    squared_w2_without,
)
from bncheck.layers.norm_layer import NormLayer
from bncheck.rules.rule import Network, Rule, rule
from bncheck.rules.static.bn106_batch_counter import contradicted_counters

if TYPE_CHECKING:
    from bncheck.layers.channels import Channels, Flags


@rule("BN105", "under-warmed-statistics", Severity.ERROR, Severity.WARNING, Severity.INFO)
def under_warmed(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """The running average has seen too few batches and still holds part of its initial 0 and 1.

    After t updates with momentum m the initial value still weighs w0 = (1-m)^t. What the average
    would be without it is (mean / (1-w0), (var - w0) / (1-w0)); the distance W2 between the two is
    the RMS error of the layer's normalised output in eval().

    Criterion: predicted W2 (RMS over channels) from 0.20 a warning, from 0.40 an error; only info
    where the momentum is not in the file and PyTorch's 0.1 is assumed. Not judged where the batch
    counter cannot be right (BN106).

    Fix: recalibrate with data. Without data the formula above repairs it where the weights confirm
    it. Train longer or with a larger momentum.
    """
    for found in under_warmed_layers(network):
        layer, w0, w2, severity = found.layer, found.initial_share, found.w2, found.severity
        momentum, first = f"momentum {layer.momentum.value:g}", ""
        if not layer.momentum.known:
            severity, momentum = Severity.INFO, f"{momentum} (assumed)"
            first = "give --momentum to be sure; then "
        yield self.finding(
            severity,
            layer.name,
            f"saw only {count(found.batches, 'batch', 'batches')} at {momentum}, so {_percent(w0)} "
            "of its running average is still the initial 0 and 1; predicted W2 "
            f"{network.thresholds.written(w2)}",
            f"{first}recalibrate with data, or train longer",
            instead=f"{first}train longer",
            w2=w2,
            initial_share=w0,
            batches=found.batches,
        )


@dataclass(frozen=True, slots=True)
class UnderWarmed:
    """A layer of which so much is still initial that it matters, `w2` being what the rest lacks."""

    layer: NormLayer
    batches: int
    initial_share: float
    w2: float
    severity: Severity


def under_warmed_layers(network: Network) -> Iterator[UnderWarmed]:
    """The layers that BN105 is about, whether or not their momentum is known."""
    if all(layer.counter is None for layer in network.tracked):
        return
    doubtful = contradicted_counters(network)
    for layer in network.suspects(partial(_may_matter, network.thresholds.w2_warning)):
        if layer.counter is None or layer.counter in doubtful or at_initial_statistics(layer):
            continue
        w0 = initial_share(layer)
        if layer.statistics is None or not 0 < w0 < 1:
            continue
        w2 = predicted_w2(layer, w0)
        severity = network.thresholds.severity(w2)
        if severity is not None:
            yield UnderWarmed(layer, layer.counter, w0, w2, severity)


def _may_matter(least: float, c: Channels) -> Flags:
    """Whether a channel is that far off: the RMS over all is no larger, but for rounding."""
    shares = c.each(initial_shares(c))
    squares = squared_w2_without(shares, c.mean, c.var, c.each(c.eps))
    return c.any(squares >= 0.99 * least**2)


def _percent(share: float) -> str:
    """37%, and 0.18%, which matters where a variance is far from the initial 1."""
    return f"{share:.0%}" if share >= 0.01 else f"{share * 100:.2g}%"
