"""BN101."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bncheck.core.findings import Finding, Severity
from bncheck.layers.facts import at_initial_statistics, never_written
from bncheck.layers.norm_layer import NormLayer
from bncheck.rules.rule import Network, Rule, rule

_COPY: Final = "copy or save the file again"
_LOAD: Final = (
    "load the buffers that belong to these weights; "
    "check with data first if the layer may have been frozen like this on purpose"
)


def _has_trained_affine(layer: NormLayer) -> bool:
    scaled = layer.weight is not None and bool((layer.weight != 1).any())
    shifted = layer.bias is not None and bool((layer.bias != 0).any())
    return scaled or shifted


def _count_nothing(network: Network) -> bool:
    return all(layer.batches is None for layer in network.tracked)


def _never_written(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    for layer in network.suspects(lambda c: c.all((c.mean == 0) & (c.var == 0))):
        if never_written(layer):
            yield self.finding(
                Severity.ERROR,
                layer.name,
                f"running mean and variance are exactly 0 in all {layer.channels} channels: "
                "they were never written, or skipped when the file was saved",
                f"{_COPY}, or recalibrate with training data",
                instead=_COPY,
                channels=layer.channels,
            )


@rule("BN101", "never-updated-statistics", Severity.ERROR, Severity.INFO)
def never_updated(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """Running statistics are still what a new layer starts with: mean 0 and variance 1.

    In eval() such a layer does not normalise at all, while in train() it did: the network that was
    trained and the network that is deployed are two. Usual causes: momentum=0, weights averaged
    (EMA, SWA) without their buffers, statistics initialised again after loading, a layer in eval()
    or frozen during training, a branch that never ran.

    Criterion: every running mean is exactly 0 and every running variance exactly 1, in a layer
    whose weight or bias has been trained or whose neighbours have statistics (error). Where the
    whole network is at its initial values the file is merely untrained (info); where all layers are
    so, weights are trained and none has a batch counter, it may be by design (info): ports of Caffe
    models keep BatchNorm as a scale and shift. Mean and variance exactly 0 in every channel were
    never written at all, or skipped in saving (error, but for half precision). Training never
    leaves exact zeros and ones behind, so equality needs no tolerance. A layer can have been
    trained with these statistics on purpose (frozen from the start): then they are right, so
    prove a repair with data.

    Fix: recalibrate the statistics with training data, or load the buffers that belong to the
    weights.
    """
    yield from _never_written(self, network)
    suspects = network.suspects(lambda c: c.all((c.mean == 0) & (c.var == 1)))
    untouched = [layer for layer in suspects if at_initial_statistics(layer)]
    if not untouched:
        return
    others = len(network.tracked) - len(untouched)
    if not others and not any(_has_trained_affine(layer) for layer in network.tracked):
        yield self.finding(
            Severity.INFO,
            None,
            "every normalisation layer is at its initial values: the network is untrained",
            "nothing, if this file is meant to hold an untrained network",
            layers=len(untouched),
        )
        return
    if not others and network.counts_batches and _count_nothing(network):
        yield self.finding(
            Severity.INFO,
            None,
            "every running mean is exactly 0 and every running variance exactly 1, no layer has a "
            "batch counter, and weights are trained: BatchNorm frozen as a scale and shift, or "
            "statistics that were never saved",
            "check with --model and --data if the layers should normalise",
            layers=len(untouched),
        )
        return
    for layer in untouched:
        if not others and not _has_trained_affine(layer):
            continue
        reason = (
            "its weight and bias have been trained"
            if _has_trained_affine(layer)
            else f"{others} other layers have statistics"
        )
        yield self.finding(
            Severity.ERROR,
            layer.name,
            f"running mean is exactly 0 and running variance exactly 1 in all "
            f"{layer.channels} channels, but {reason}: in eval() it does not normalise",
            f"recalibrate with training data, or {_LOAD}",
            instead=_LOAD,
            channels=layer.channels,
            batches=layer.counter,
        )
