"""Which batches would leave a network's statistics? Of one kind each, or of some kinds only.

Batches of one kind k leave (mu_kl, v_kl) in layer l. These are measured by running such batches,
each layer normalising with the batch, as in training: behind the first layer they are not what the
class's share in mixed batches would say. A running average over several such batches holds

    mean_l = sum_k a_k mu_kl        var_l = sum_k a_k v_kl        a_k >= 0, sum_k a_k = 1

(mixed batches, which came before them, are one more kind) with *one* a for all layers, found by
least squares in the layers' own coordinates (errors of means in standard deviations, of variances
by half the logarithm, to first order). A rank that sees a shard of the kinds has batches that hold
them in shares a: a comes from what the kinds do in mixed batches, to first order, and running
batches with these shares then predicts every layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.measuring.measurement import MeasuredLayer, Seen
from bncheck.rules.data.class_mixture import OTHERWISE, simplex_least_squares
from bncheck.rules.data.measured_network import EACH, MeasuredNetwork
from bncheck.rules.data.scoring import BOUND, error, share

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bncheck.measuring.moments import Moments

    Floats = NDArray[np.float64]

#: Kinds with less than this share are not worth a sample.
_LEAST: Final = 0.02
_TINY: Final = 1e-12
#: So many samples of each kind, or one batch, tell whether more are worth their run: in planted
#: networks they come within 0.1 of what all explain, and other faults are at 0 to 0.4.
_FEW: Final = 8
_NEARLY: Final = 0.5
#: By chance the means of a few samples may explain so much more than those of all.
_MARGIN: Final = 0.1


@dataclass(frozen=True)
class BatchKinds:
    """Kinds with their shares, the share of each layer's deviation that they explain."""

    weights: Mapping[int, float]
    shares: Mapping[str, float]
    free: float
    alone: bool  # one kind in every batch


def first_layer_forbids(network: MeasuredNetwork) -> bool:
    """Whether a layer that reads the data rules out every mixture of the kinds, without a run.

    Nothing is normalised before it, so a kind has the same mean there in any batch. What the least
    squares weights of these means leave unexplained, any shares leave.
    """
    return any(_forbids(network, m) for m in network.entries)


def _forbids(network: MeasuredNetwork, stem: MeasuredLayer) -> bool:
    if stem.layer.name not in network.heavy or not stem.classes:
        return False
    mean, sigma = stem.seen[0], _units(stem)[0]
    off = (stem.stored[0] - mean) / sigma
    if float(np.abs(off).max()) > BOUND:  # where scoring counts less than the squares
        return False
    kinds = np.stack([(kind.mean - mean) / sigma for kind in stem.classes.values()], axis=1)
    left = off - kinds @ np.linalg.lstsq(kinds, off)[0]
    noise = stem.sampling_noise
    total = float(error(stem, *stem.seen).sum()) - noise
    return total > 0 and 1 - (float(left @ left) - noise) / total < EACH - _MARGIN


def batches_of_one_kind(network: MeasuredNetwork) -> BatchKinds | None:
    """What batches that hold one kind each explain; None where a few samples explain too little."""
    reruns = network.measurement.reruns
    if reruns is None:
        return None
    few = _of_one_kind(network, reruns.of_each_kind(_FEW))
    if few is None or not _worth_more(network, few):
        return None
    return _of_one_kind(network, reruns.of_each_kind())


def _worth_more(network: MeasuredNetwork, found: BatchKinds) -> bool:
    """Whether more samples may show what a few nearly show: the share of the whole deviation."""
    off = network.off
    explained = sum(off[name] * found.shares.get(name, 0.0) for name in off)
    return explained >= _NEARLY * sum(off.values())


def _of_one_kind(network: MeasuredNetwork, runs: Mapping[int, Seen]) -> BatchKinds | None:
    if len(runs) < 2:
        return None
    labels = sorted(runs)
    mixed = {m.layer.name: m.batch_moments for m in network.layers if m.batch_moments is not None}
    seen = [*(runs[label] for label in labels), mixed]
    weights = _fitted(network, seen)
    free = len(labels) / len(network.layers)
    shares = {}
    for m in network.layers:
        moments = [run[m.layer.name] for run in seen if m.layer.name in run]
        if len(moments) == len(seen):
            mean = weights @ np.stack([found.mean for found in moments])
            var = weights @ np.stack([found.unbiased_var for found in moments])
            shares[m.layer.name] = share(m, mean, var, free)
    chosen = dict(zip(labels, map(float, weights[:-1]), strict=True))
    return BatchKinds(chosen, shares, free, True)


def batches_of_some_kinds(network: MeasuredNetwork) -> BatchKinds | None:
    """What batches with other shares of the kinds explain; None where one explains too little."""
    reruns, stem = network.measurement.reruns, network.stem
    labels = sorted(stem.classes)
    if reruns is None or len(labels) < 2:
        return None
    weights = _shares_of_kinds(network, labels)
    free = (len(labels) - 1) / len(network.layers)
    chosen = {
        label: float(weight)
        for label, weight in zip(labels, weights, strict=True)
        if weight >= _LEAST
    }
    few = _in_shares(network, reruns.in_shares(chosen, 1), chosen, free)
    if not _worth_more(network, few):
        return None
    return _in_shares(network, reruns.in_shares(chosen), chosen, free)


def even_kinds(network: MeasuredNetwork) -> BatchKinds | None:
    """What batches with as much of every kind explain; None where these data are about even."""
    images = np.array([float(kind.images) for kind in network.stem.classes.values()])
    reruns, kinds = network.measurement.reruns, len(images)
    if reruns is None or kinds < 2 or first_layer_forbids(network):
        return None
    if float(np.abs(images / images.sum() - 1 / kinds).sum()) / 2 < OTHERWISE:
        return None
    even = dict.fromkeys(network.stem.classes, 1 / kinds)
    run = reruns.in_shares(even)
    # Kinds of few samples weigh more (Kish), and samples are drawn, some of them twice.
    noise = float(images.sum()) * float(np.sum(1 / images)) / kinds**2 + 1
    shares = {m.layer.name: _beyond(m, run[m.layer.name], noise) for m in network.layers
              if m.layer.name in run}  # fmt: skip
    return BatchKinds(even, shares, 0.0, False)


def _beyond(m: MeasuredLayer, moments: Moments, noise: float) -> float:
    """The share of a layer's deviation that is explained, of a sample so many times as noisy."""
    total = float(error(m, *m.seen).sum()) - m.sampling_noise
    left = float(error(m, moments.mean, moments.unbiased_var).sum()) - noise * m.sampling_noise
    return 1.0 - max(0.0, left) / total if total > 0 else 0.0


def _in_shares(
    network: MeasuredNetwork, run: Seen, chosen: Mapping[int, float], free: float
) -> BatchKinds:
    shares = {
        m.layer.name: share(m, run[m.layer.name].mean, run[m.layer.name].unbiased_var, free)
        for m in network.layers
        if m.layer.name in run
    }
    return BatchKinds(chosen, shares, free, False)


def _shares_of_kinds(network: MeasuredNetwork, labels: list[int]) -> Floats:
    """The shares a for which kinds in mixed batches give about the stored variances.

    To first order in mu_a - mu the variance of shares a is sum_k a_k (v_k + (mu_k - mu)^2). Means
    say as much in the first layer only: behind it every batch has been normalised.
    """
    rows, targets = [], []
    for m in network.layers:
        if not all(label in m.classes for label in labels):
            continue
        kinds, mean = [m.classes[label] for label in labels], m.seen[0]
        sigma, half = _units(m)
        rows += [np.stack([k.var + (k.mean - mean) ** 2 for k in kinds], axis=1) * half[:, None]]
        targets += [m.stored[1] * half]
        if m is network.stem:
            rows += [np.stack([k.mean - mean for k in kinds], axis=1) / sigma[:, None]]
            targets += [(m.stored[0] - mean) / sigma]
    return simplex_least_squares(np.concatenate(rows), np.concatenate(targets))


def _fitted(network: MeasuredNetwork, runs: list[Seen]) -> Floats:
    """The one set of shares for all layers that all runs reached."""
    rows, targets = [], []
    for m in network.layers:
        seen = [run.get(m.layer.name) for run in runs]
        moments = [found for found in seen if found is not None]
        if len(moments) < len(runs):
            continue
        sigma, half = _units(m)
        rows += [np.stack([found.mean for found in moments], axis=1) / sigma[:, None]]
        rows += [np.stack([found.unbiased_var for found in moments], axis=1) * half[:, None]]
        targets += [m.stored[0] / sigma, m.stored[1] * half]
    return simplex_least_squares(np.concatenate(rows), np.concatenate(targets))


def _units(m: MeasuredLayer) -> tuple[Floats, Floats]:
    """The standard deviation, and what makes half a logarithm of a small error of the variance."""
    eps = (m.layer.eps.value or 0.0) + _TINY
    var, seen = m.stored[1], m.seen[1]
    return np.sqrt(np.maximum(seen, 0) + eps), 1 / (2 * (np.maximum(var, seen) + eps))
