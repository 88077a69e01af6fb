"""BN106."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.layers.facts import at_initial_statistics, initial_share, initial_shares, median
from bncheck.layers.norm_layer import NormLayer
from bncheck.reading.kinds import NormKind
from bncheck.rules.rule import Network, Rule, rule

if TYPE_CHECKING:
    from bncheck.layers.channels import Channels, Flags

#: Rounding of the average itself: variances are this much below w0 before it is a contradiction.
_SLACK = 1e-3
#: Layers whose means the weights predict, how far off these must be if the counter is right, and
#: by which share of that they are when it is not: under-warmed networks have 1 and more.
_FEWEST_CHAINS = 2
_VISIBLE = 0.2
_CLEARLY = 0.5
_FIX = "nothing by itself: bncheck ignores the counter"


@rule("BN106", "unusable-batch-counter", Severity.INFO)
def unusable_counter(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """num_batches_tracked does not belong to the statistics beside it.

    Ported, averaged or converted checkpoints carry a counter of 0 or 1 beside statistics of a long
    training, or a fraction, or none. It harms nothing in eval(), but nothing can be concluded
    from it either, and training on with momentum=None would start its average anew.

    Criterion: a running variance below (1-m)^t, which an average that began at 1 and had t updates
    cannot be (batch variances are never negative); or means that are less than half as far from
    those that the weights predict (BN117) as the initial 0 in them would make them, in the median
    of two layers or more and where that is .2 standard deviations; or a counter that is missing,
    zero, negative or no whole number beside statistics that have moved.

    Fix: none needed for inference.
    """
    if not network.counts_batches:
        return
    counted = [layer for layer in network.tracked if layer.kind is not NormKind.FROZEN]
    if len(counted) > 1 and all(layer.batches is None for layer in counted):
        yield self.finding(
            Severity.INFO,
            None,
            "no layer has num_batches_tracked (written before PyTorch 0.4.1, or ported), so "
            "it is unknown how many batches they averaged",
            _FIX,
            layers=len(counted),
        )
        return
    refuted = _refuted_by_weights(network)
    looked_at = {id(layer) for layer in network.suspects(_may_contradict, counted)}
    for layer in counted if refuted else network.suspects(_may_contradict, counted):
        reason = _reason(layer) if id(layer) in looked_at else ""
        if not reason and layer.counter in refuted and not at_initial_statistics(layer):
            reason = (
                f"num_batches_tracked is {layer.counter}, but the running means are those that the "
                "weights predict, which after so few updates they would not be"
            )
        if reason:
            yield self.finding(Severity.INFO, layer.name, reason, _FIX, batches=layer.batches)


def _reason(layer: NormLayer) -> str:
    if layer.statistics is None or at_initial_statistics(layer):
        return ""
    if layer.batches is None:
        return "has no num_batches_tracked, though it has statistics"
    if layer.counter is None:
        return f"num_batches_tracked is {layer.batches:g} beside statistics that have moved"
    if contradicts(layer):
        return (
            f"num_batches_tracked is {layer.counter}, but a running variance is lower than that "
            "many updates could bring it"
        )
    return ""


def contradicts(layer: NormLayer) -> bool:
    """Whether a variance is below the share that its initial value of 1 must still have."""
    if layer.statistics is None:
        return False
    return bool((layer.statistics[1] < initial_share(layer) * (1 - _SLACK)).any())


def _may_contradict(c: Channels) -> Flags:
    """Whether there is no counter, or a variance below the share of its initial value."""
    return np.isnan(c.counter) | c.any(c.var < c.each(initial_shares(c)))


def contradicted_counters(network: Network) -> set[int]:
    """Counter values that some layer, or the weights, prove wrong.

    Others with the same value share its origin.
    """
    return _refuted_by_weights(network) | {
        layer.counter
        for layer in network.suspects(_may_contradict)
        if layer.counter is not None and contradicts(layer)
    }


def _refuted_by_weights(network: Network) -> set[int]:
    """Counters whose share of the initial 0 is not in the means.

    With a share w0 of it a mean is (1-w0) of what the weights predict, so off by w0/(1-w0) of what
    is stored.
    """
    deviations = {chain.layer: chain.deviation for chain in network.chains.found}
    found: dict[int, list[tuple[float, float]]] = {}
    for layer in network.tracked if deviations else ():
        share = initial_share(layer)
        if layer.name not in deviations or layer.counter is None or not 0 < share < 1:
            continue
        if layer.statistics is not None:
            mean, var = layer.statistics
            shift = share / (1 - share) * mean / np.sqrt(var + (layer.eps.value or 0.0))
            expected = float(np.sqrt(np.mean(shift**2)))
            found.setdefault(layer.counter, []).append((expected, deviations[layer.name]))
    return {counter for counter, pairs in found.items() if _is_refuted(pairs)}


def _is_refuted(pairs: list[tuple[float, float]]) -> bool:
    """Whether deviations are clearly less than expected ones, in the median of enough layers."""
    expected, seen = (median(np.array(numbers)) for numbers in zip(*pairs, strict=True))
    return len(pairs) >= _FEWEST_CHAINS and expected >= _VISIBLE and seen < _CLEARLY * expected
