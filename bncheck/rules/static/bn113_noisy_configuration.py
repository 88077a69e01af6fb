"""BN113."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from bncheck.core.findings import Finding, Severity
from bncheck.layers.norm_layer import NormLayer
from bncheck.rules.rule import Network, Rule, rule

_TRAIN: Final = "train with a smaller momentum, larger batches or SyncBatchNorm"


@rule("BN113", "noisy-configuration", Severity.ERROR, Severity.WARNING)
def noisy_configuration(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """With this batch size and momentum the running statistics are mostly noise.

    An exponential average with momentum m sees about (2 - m) / m batches, 19 at 0.1. With one
    normal value per sample and channel the expected W2 of its statistics is sqrt(1.5 k / B), where
    k = m / (2 - m) * (1 - (1 - m)^(2t)) and B the batch size (Wu and Johnson 2021, arXiv
    2105.07576). Convolutions have many values a sample and fare better: this is the upper bound.

    Criterion: that bound from 0.20 a warning, from 0.40 an error; only where the momentum is in
    the file or given, and --train-batch-size (of one device, without accumulation) is given.

    Fix: recalibrate with data; for training, a smaller momentum, larger batches, SyncBatchNorm or
    GroupNorm.
    """
    batch = network.train_batch_size
    if batch is None:
        return
    noisy = {layer.name: bound for layer in network.tracked if (bound := noise_bound(layer, batch))}
    worst = {name: bound for name, bound in noisy.items() if network.thresholds.severity(bound)}
    if not worst:
        return
    everywhere = len(worst) == len(network.tracked)
    shown = {None: max(worst.values())} if everywhere else worst
    for name, bound in shown.items():
        yield self.finding(
            network.thresholds.severity(bound) or Severity.WARNING,
            name,
            f"batches of {batch} with this momentum leave running statistics with an expected W2 "
            f"of up to {bound:.2f} from noise alone",
            f"recalibrate with data; {_TRAIN}",
            instead=_TRAIN,
            w2=bound,
            train_batch_size=batch,
            layers=len(worst),
        )


def noise_bound(layer: NormLayer, batch: int) -> float:
    """Expected W2 of running statistics with one value a sample; 0 where nothing is known."""
    momentum = layer.momentum.value
    if not layer.momentum.known:
        return 0.0
    if momentum is None:  # cumulative average: all batches weigh the same
        kappa = 1 / layer.counter if layer.counter else 0.0
    elif 0 < momentum < 1:
        warm = 1.0 if layer.counter is None else 1 - (1 - momentum) ** (2 * layer.counter)
        kappa = momentum / (2 - momentum) * warm
    else:
        kappa = 1.0 if momentum == 1 else 0.0
    return math.sqrt(1.5 * kappa / batch)
