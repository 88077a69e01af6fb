"""BN204."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from bncheck.core.findings import Severity
from bncheck.core.words import percent
from bncheck.measuring.results import Direction
from bncheck.rules.data.batch_kinds import (
    BatchKinds,
    batches_of_one_kind,
    batches_of_some_kinds,
    even_kinds,
    first_layer_forbids,
)
from bncheck.rules.data.bn208_would_hurt import of_one_sided_data
from bncheck.rules.data.claim import LEAST, Claim
from bncheck.rules.data.class_mixture import more_even
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.rule import Rule, rule

#: Without labels: in a deep layer ln(sigma_r / sigma) is this far below 0, in its own standard
#: deviations, and early layers are right.
_SIGN: Final = -0.7
_TYPICAL: Final = 0.10
_DEEP: Final = 0.5
#: The deep layer implies a noise of variances this many times that of the median layer.
_GROWING: Final = 2.0
_SHUFFLE: Final = "shuffle while training, as bncheck does with files and folders"


@rule("BN204", "ordered-batches", Severity.ERROR, Severity.WARNING)
def ordered(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """The statistics were last updated on batches of one kind: sorted by class, scene or time.

    Such batches vary less than the data as a whole, and the more so the deeper the layer, because
    deep layers tell classes apart. The running average ends with the mean and the variance of the
    last few classes; a rank that sees a shard of the classes does the same.

    Criterion: samples are told apart by their labels, else by what the model takes them for. Each
    kind k is run in batches of its own, which leave (mu_k, v_k) in a layer; sum_k a_k mu_k and
    sum_k a_k v_k, with a_k >= 0 of sum 1 and the same in all layers (mixed batches are one more
    kind), explain at least 75 % of the whole
    deviation and half of each layer's: sorted. Or batches with the shares a of the
    kinds do so, where a is fitted to the variances, sum_k a_k (v_k + (mu_k - mu)^2), and to the
    first layer's means: a shard. It is the data that are one where they have their kinds less
    evenly, and no labels show that measured statistics serve better (BN208). Where kinds are not
    known: a layer of the deeper half deviates most, its running variance is too small in nearly all
    channels (mean ln(sigma_r / sigma) below -0.7 of its standard deviation over channels), it
    implies at least twice the noise of the median layer (k_var, see BN201), and the median layer is
    right.

    Fix: recalibrate with shuffled data; shuffle in training.
    """
    found = _of_runs(network)
    if found is not None and _are_one_sided(network, found):
        yield of_one_sided_data(found.shares, found.free)
    elif found is not None:
        yield _of_some_kinds(self, found)
    else:
        yield from _by_variance(self, network)


def _of_runs(network: MeasuredNetwork) -> BatchKinds | None:
    """What other batches would leave, measured by running them."""
    if network.stem.classes and not first_layer_forbids(network):
        for predicted in (batches_of_one_kind, batches_of_some_kinds):
            found = predicted(network)
            if found is not None and network.whole_share(found.shares) >= LEAST:
                return found
    return None


def one_sided(network: MeasuredNetwork) -> Iterator[Claim]:
    """With as much of every kind the data would agree with the statistics: nothing is wrong."""
    found = None if network.direction is Direction.BETTER else even_kinds(network)
    if found is not None and network.whole_share(found.shares) >= LEAST:
        yield of_one_sided_data(found.shares, found.free)


def _are_one_sided(network: MeasuredNetwork, found: BatchKinds) -> bool:
    """Whether it is these data that are a shard: the statistics have their kinds more evenly."""
    images = {kind: m.images for kind, m in network.stem.classes.items()}
    whole = sum(images.values())
    given = {kind: number / whole for kind, number in images.items()} if whole else {}
    better = network.direction is Direction.BETTER
    return not found.alone and not better and more_even(found.weights, given)


def _of_some_kinds(self: Rule[MeasuredNetwork, Claim], found: BatchKinds) -> Claim:
    largest = sorted(found.weights.items(), key=lambda item: -item[1])[:3]
    top = ", ".join(f"{kind} ({percent(weight, 0)})" for kind, weight in largest)
    what = "batches of one class each" if found.alone else "batches of some classes only"
    why = "were sorted" if found.alone else "were of a shard of the data"
    return Claim(
        self,
        {name: max(explained, LEAST) for name, explained in found.shares.items()},
        f"the statistics are those of {what}, most of all {top}: the last batches {why}",
        advice=_SHUFFLE,
        free=found.free,
        evidence={"kinds": [f"{kind}: {weight:.3f}" for kind, weight in largest]},
    )


def _by_variance(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    if len(network.w2) < 3 or network.of_other_weights or network.is_entry(network.culprit):
        return
    place = int(np.argmax(network.w2))
    deepest, implied = network.batch[place], network.implied
    middle = float(np.median([found.by_variances for found in implied]))
    if place < _DEEP * (len(network.w2) - 1) or implied[place].sign > _SIGN:
        return
    if implied[place].by_variances < _GROWING * middle:
        return
    if float(np.median(network.w2)) >= max(_TYPICAL, network.w2[place] / 2):
        return
    yield Claim(
        self,
        {m.layer.name: 0.76 for m in network.layers},
        f"early layers agree, and deep ones hold {float(np.exp(deepest.signed)):.0%} times the "
        "variance they see: the last batches of training were alike, as when the data are "
        "sorted by class",
        advice=_SHUFFLE,
        free=1.5 * network.stem.layer.channels,
        predicts=False,
        evidence={"log_variance_ratio": deepest.signed},
    )
