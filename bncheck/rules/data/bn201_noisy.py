"""BN201."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from bncheck.core.findings import Severity
from bncheck.measuring.deviation import averaging_noise
from bncheck.rules.data.claim import Claim
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.rule import Rule, rule

#: W2^2 of a layer is scattered about its expectation; beyond this factor it is no noise.
_SCATTER: Final = 2.5
#: Where momentum does not say: noise hits all layers alike, in units of what an image has.
_UNIFORM: Final = 4.2
_FEW_LAYERS: Final = 3
#: kappa / B of momentum 0.9 and batches of 2.
_LARGEST: Final = 0.6
#: Running variances that are too large in most channels of most layers are not chance; too small
#: ones may be: the variance of a few images is, on the median, too small.
_SIGN: Final = 0.7


@rule("BN201", "noisy-statistics", Severity.ERROR, Severity.WARNING)
def noisy(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """The running statistics are right on average, but of too few images: they are noise.

    A running average with momentum m over batches of B images has kappa/B times the variance of
    one image's statistics, kappa = m/(2-m). With momentum 0.9 (TensorFlow's, meant as 0.1 here)
    it is little more than the last batch. The network learned well; only its memory is short.

    Criterion: W2 from 0.20 (warning) or 0.40 (error) in the eval cascade, and in the batch cascade
    the variances imply k = kappa/B, k = mean (ln sigma_r - ln sigma)^2 / mean (Var q_i / 4 sigma^4)
    - 1/N, of at most 2.5 times what the known momentum and batch size give or, failing these, much
    the same k in every layer (the largest at most 0.6 and 4.2 times the median). Behind the first
    layer means are off by less than that (each batch is normalised by itself in training, so
    batches cannot move them; BN202 otherwise), and the variances are not too large in most
    channels. With labels, measured statistics restore the results: noise took nothing else away.

    Fix: recalibrate; train with momentum 0.1 or less, larger batches, SyncBatchNorm or GroupNorm.
    """
    if network.both_poor or not _is_noise(network):
        return
    implied = np.array([found.by_variances for found in network.implied])
    images = 1 / max(float(np.median(implied)), 1e-9)
    momentum = network.culprit.layer.momentum.value
    told = "" if momentum is None else f" (momentum {momentum:g})"
    yield Claim(
        self,
        {m.layer.name: 0.9 for m in network.layers},
        f"the running statistics are noise, as if of {max(images, 1):.0f} images{told}: every "
        "layer deviates by about what chance explains",
        advice="in training use momentum 0.1 or less, or larger batches",
        free=float(network.stem.layer.channels) / 2,
        predicts=False,
        evidence={"implied_images": images, "momentum": momentum},
    )


def _is_noise(network: MeasuredNetwork) -> bool:
    """Whether chance explains what the layers deviate by in the batch cascade."""
    if not network.off:
        return False
    by_variances = np.array([found.by_variances for found in network.implied])
    signs = np.array([found.sign for found in network.implied])
    if float(np.median(signs)) > _SIGN or network.of_other_weights:
        return False
    if float(by_variances.max()) <= _expected(network) * _SCATTER:
        return True
    if all(m.layer.momentum.value is None and m.layer.batches for m in network.layers):
        return False  # a cumulative average has a long memory, of weights that are gone
    largest, middle = float(by_variances.max()), float(np.median(by_variances))
    return len(by_variances) >= _FEW_LAYERS and largest <= min(_LARGEST, _UNIFORM * middle)


def _expected(network: MeasuredNetwork) -> float:
    """kappa / B, with batches of 4 where the batch size is not known."""
    kappa = max(averaging_noise(m.layer.momentum.value, m.layer.counter) for m in network.layers)
    return kappa / (network.measurement.train_batch_size or 4)
