"""BN214."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from bncheck.core.findings import Severity
from bncheck.measuring.deviation import deviation
from bncheck.measuring.measurement import Replay
from bncheck.rules.data.claim import LEAST, Claim, Fault
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.data.scoring import share
from bncheck.rules.rule import Rule, rule

if TYPE_CHECKING:
    from bncheck.measuring.moments import Moments

#: With the right code no layer is off by more.
_FITS: Final = 0.12
#: Exchanges this close fit as well: the first, more usual one is named.
_EQUAL: Final = 0.01
#: Behind the first layer that is off, at least this share is.
_BEHIND: Final = 0.5
#: A W2 of one batch is as much as so many times its noise above that of all.
_BY_CHANCE: Final = 2.0


@rule("BN214", "other-model-code", Severity.ERROR, Severity.WARNING)
def other_code(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """Layers agree up to a place and not after it: the model's code is not that of the training.

    Another activation, padding mode, pooling or eps has no tensors, so the file loads without a
    word; what comes first agrees to rounding, and from the first difference on nothing does.

    Criterion: the first layer agrees by itself (W2 below 0.06) and at least half of those from the
    first that deviates; no other explanation predicts them. 128 samples are then run with
    each exchange (ReLU, LeakyReLU, SiLU, GELU, Hardswish, nothing; zeros, reflect, replicate,
    circular; max and average pooling; eps 1e-6 to 1e-2). One explains it that leaves every layer a
    W2 of at most 0.12 and predicts at least 75 % of the deviation of all layers that are off.

    Fix: correct the code, or --model-arg; leave the statistics.
    """
    if not _agrees_up_to_a_place(network):
        return
    reruns = network.measurement.reruns
    replays = () if reruns is None else reruns.other_code(partial(_refutes, network))
    tried = [(_largest(network, replay), replay) for replay in replays]
    if not tried:
        return
    least = min(w2 for w2, _ in tried)
    w2, best = next(pair for pair in tried if pair[0] <= least + _EQUAL)
    shares = {name: _share(network, name, best) for name in network.off}
    whole = sum(network.off.values())
    if w2 > _FITS or sum(network.off[n] * s for n, s in shares.items()) < LEAST * whole:
        return
    first = next(iter(network.off))
    yield Claim(
        self,
        {name: max(explained, LEAST) for name, explained in shares.items()},
        f"layers agree with their statistics before {first} and not from there on, and with "
        f"{best.words} all do (W2 {w2:.2f})",
        advice="correct the model's code or --model-arg: it is not the code of the training",
        fault=Fault.CODE,
        free=0.25,
        evidence={"exchange": best.words, "exchange_w2": w2},
    )


def _agrees_up_to_a_place(network: MeasuredNetwork) -> bool:
    names = [m.layer.name for m in network.layers]
    places = [place for place, name in enumerate(names) if name in network.off]
    if not places or places[0] == 0:
        return False
    return len(places) >= _BEHIND * (len(names) - places[0])


def _refutes(network: MeasuredNetwork, name: str, moments: Moments) -> bool:
    """Whether a layer is off by more than chance makes of a batch."""
    measured = network.measurement.by_name().get(name)
    if measured is None or measured.layer.statistics is None:
        return False
    held = deviation(measured.layer, moments)
    return held.w2 > _FITS + _BY_CHANCE * math.sqrt(held.reference_noise)


def _largest(network: MeasuredNetwork, replay: Replay) -> float:
    """The largest W2 of any layer with the exchange."""
    return max(
        deviation(m.layer, replay.moments[m.layer.name]).w2
        if m.layer.name in replay.moments
        else float("inf")
        for m in network.layers
    )


def _share(network: MeasuredNetwork, name: str, replay: Replay) -> float:
    moments = replay.moments[name]
    layer = network.measurement.by_name()[name]
    return share(layer, moments.mean, moments.unbiased_var)
