"""BN201."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bncheck.core.findings import Severity
from bncheck.rules.data.claim import LEAST, Claim
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.data.noise import is_noise, is_told_noise, noise_share
from bncheck.rules.data.small_batches import measured_noise_share, small_batches
from bncheck.rules.rule import Rule, rule


@rule("BN201", "noisy-statistics", Severity.ERROR, Severity.WARNING)
def noisy(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """The running statistics are right on average, but of too few images: they are noise.

    A running average with momentum m over batches of B images has kappa/B times the variance of
    one image's statistics, kappa = m/(2-m). With momentum 0.9 (TensorFlow's, meant as 0.1 here)
    it is little more than the last batch. The network learned well; only its memory is short.

    Criterion: W2 from 0.20 (warning) or 0.40 (error) in the eval cascade, and in the batch cascade
    the variances imply k = kappa/B, k = mean (ln sigma_r - ln sigma)^2 / mean (Var q_i / 4 sigma^4)
    - 1/N, of at most 2.5 times what the known momentum and batch size give or, failing these, one
    k of at most 0.6 for all layers predicts at least 75 % of what their variances deviate by: with
    L_l = sum (ln sigma_r - ln sigma)^2 and U_l = sum Var q_i / 4 sigma^4 over a layer's channels
    and k = sum L / sum U, sum_l min(L_l, k U_l) / sum_l L_l. Behind the first layer means are off
    by less than that (each batch is normalised by itself in training, so batches cannot move them;
    BN202 otherwise), those of the first layer in units of noise by 1/64 to 8 times what its
    variances are, and variances are not too large, or too small, in nearly all channels; and the
    same k explains 75 % of what means and variances deviate by together, where shuffled batches of
    4 samples show how much either scatters: no channel counts for more than nine times what k makes
    of it, and a layer for nothing where half of its channels are hardly off beside the others. With
    labels, measured statistics restore the results: noise took nothing else away.

    Or batches of 2, 4 or 8 shuffled samples (of --train-batch-size, where it is told), in which
    each layer normalises with the batch, explain 75 % of the whole deviation, layers that agree and
    would not counted in: the stored numbers are the averages over them, and off those by kappa
    times what single batches scatter.

    Fix: recalibrate; train with momentum 0.1 or less, larger batches, SyncBatchNorm or GroupNorm.
    """
    if network.both_poor or not is_noise(network):
        return
    told = is_told_noise(network)
    explained = max(noise_share(network), LEAST if told else 0.0)
    if not told:
        explained = min(explained, measured_noise_share(network))
    implied = np.array([found.by_variances for found in network.implied])
    images = 1 / max(float(np.median(implied)), 1e-9)
    momentum = network.culprit.layer.momentum.value
    with_momentum = "" if momentum is None else f" (momentum {momentum:g})"
    yield Claim(
        self,
        dict.fromkeys([m.layer.name for m in network.layers], explained),
        f"the running statistics are as noisy as if they came from {max(images, 1):.0f} "
        f"images{with_momentum}: chance explains what every layer deviates by",
        advice="in training use momentum 0.1 or less, or larger batches",
        free=float(network.stem.layer.channels) / 2,
        predicts=told,
        evidence={"implied_images": images, "momentum": momentum},
    )


def of_small_batches(network: MeasuredNetwork) -> Iterator[Claim]:
    """The statistics are what shuffled batches of a few samples leave, as running them shows."""
    found = small_batches(network)
    if found is None or found.whole < LEAST:
        return
    yield Claim(
        noisy,
        found.shares,
        f"the running statistics are those of shuffled batches of about {found.size} samples, "
        "which vary less than the data, and the more so the deeper the layer",
        advice="in training use larger batches, or GroupNorm",
        free=found.free,
        stands=True,
        evidence={"batch_size": found.size, "momentum": network.culprit.layer.momentum.value},
    )
