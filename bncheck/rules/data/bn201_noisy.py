"""BN201."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.measuring.deviation import averaging_noise
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.rule import Rule, rule

#: W2^2 of a layer is scattered about its expectation; beyond this factor it is no noise.
_SCATTER: Final = 2.5
#: Where momentum does not say: noise hits all layers alike, in units of what an image has.
_UNIFORM: Final = 4.2
_UNIFORM_LAYERS: Final = 8
#: kappa / B of momentum 0.9 and batches of 2.
_LARGEST: Final = 0.45


@rule("BN201", "noisy-statistics", Severity.ERROR, Severity.WARNING)
def noisy(self: Rule[MeasuredNetwork], network: MeasuredNetwork) -> Iterator[Finding]:
    """The running statistics are right on average, but of too few images: they are noise.

    A running average with momentum m over batches of B images has kappa/B times the variance of
    one image's statistics, kappa = m/(2-m). With momentum 0.9 (TensorFlow's, meant as 0.1 here)
    it is little more than the last batch. The network learned well; only its memory is short.

    Criterion: W2 from 0.20 (warning) or 0.40 (error) in the eval cascade, and what each layer adds
    to it in the batch cascade is explained by noise: by the momentum and batch size that are known
    or, failing these, because all layers deviate equally in units of one image's noise.

    Fix: recalibrate; train with momentum 0.1 or less, larger batches, SyncBatchNorm or GroupNorm.
    """
    severity = network.severity
    if severity is None or not is_noise(network):
        return
    implied = np.array([d.implied_noise for d in network.batch])
    images = 1 / max(float(np.median(implied)), 1e-9)
    momentum = network.culprit.layer.momentum.value
    told = "" if momentum is None else f" (momentum {momentum:g})"
    yield network.finding(
        self,
        severity,
        network.culprit,
        network.with_results(
            f"the running statistics are noise, as if of {max(images, 1):.0f} images{told}: every "
            "layer deviates by about what chance explains"
        ),
        f"run `{network.recalibrate}`; in training use momentum 0.1 or less, or larger batches",
        implied_images=images,
        momentum=momentum,
    )


def is_noise(network: MeasuredNetwork) -> bool:
    """Whether chance explains what the layers deviate by in the batch cascade."""
    implied = np.array([d.implied_noise for d in network.batch])
    implied = implied[np.isfinite(implied)]
    if not implied.size or len(implied) < len(network.batch):
        return False
    if float(implied.max()) <= _expected(network) * _SCATTER:
        return True
    if all(m.layer.momentum.value is None and m.layer.batches for m in network.layers):
        return False  # a cumulative average has a long memory, of weights that are gone
    uniform = implied.max() <= _UNIFORM * np.median(implied) and implied.max() <= _LARGEST
    return bool(uniform) and len(implied) >= _UNIFORM_LAYERS


def _expected(network: MeasuredNetwork) -> float:
    """kappa / B, with batches of 4 where the batch size is not known."""
    kappa = max(averaging_noise(m.layer.momentum.value, m.layer.counter) for m in network.layers)
    return kappa / (network.measurement.train_batch_size or 4)
