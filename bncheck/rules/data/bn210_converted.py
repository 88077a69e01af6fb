"""BN210."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.findings import Severity
from bncheck.measuring.measurement import MeasuredLayer
from bncheck.measuring.results import Direction
from bncheck.rules.data.claim import LEAST, Claim, Fault
from bncheck.rules.data.measured_network import MeasuredNetwork, names
from bncheck.rules.data.moved_means import lags, moved_share, shares_of_biases
from bncheck.rules.data.scoring import (
    error,
    parts,
    residual,
    share,
)
from bncheck.rules.rule import Rule, rule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Form = Callable[[Floats, Floats], tuple[Floats, Floats]]

#: What the stored numbers are of the measured mean and variance, in words and as a formula.
FORMS: Final[tuple[tuple[str, Form], ...]] = (
    ("the standard deviation stands for the variance", lambda m, v: (m, np.sqrt(v))),
    ("the variance is squared", lambda m, v: (m, v**2)),
    ("1 / standard deviation stands for the variance", lambda m, v: (m, 1 / np.sqrt(v + 1e-5))),
    ("1 / variance stands for the variance", lambda m, v: (m, 1 / (v + 1e-5))),
    ("the sign of the means is turned", lambda m, v: (-m, v)),
    ("mean and variance are exchanged", lambda m, v: (v, m)),
    ("mean and variance are exchanged, without signs", lambda m, v: (v, np.abs(m))),
    ("the variances end at 65504, as half precision does", lambda m, v: (m, np.minimum(v, 65504))),
)
#: A factor this near 1 is not another unit; one this far is not a unit in use.
_LEAST_FACTOR: Final = 1.15
_MOST_FACTOR: Final = 300.0
#: Factors of several layers are one where they differ by less than this, in logarithms.
_ALIKE: Final = 0.12
#: The log standard deviation differs by no more between the channels where it is one factor.
_SCATTER: Final = 0.08
#: A share from which the first layer's own statistics are at fault, and not the data.
_CERTAIN: Final = 0.97
#: A form that fits so many of the layers that deviate is that of all.
_MOST_LAYERS: Final = 0.8
#: A right form leaves no more than the noise of running averages (RMS), or 3 % of the deviation.
_LEFT: Final = 0.06


@rule("BN210", "converted-statistics", Severity.ERROR, Severity.WARNING)
def converted(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """The statistics are right, but stand in another form than PyTorch's.

    Ports and conversion scripts write the standard deviation where the variance belongs, its
    inverse, or the means with the other sign; a bias before the norm that was dropped on the way
    leaves every mean off; a factor such as 0.75 is the biased estimate of batches of 4. The
    network then fails in eval() only, like one whose statistics were lost.

    Criterion: with mu and s^2 what the layer sees, the stored (mean, variance) are (mu, s),
    (mu, s^4), (mu, 1/s), (mu, 1/s^2), (mu, min(s^2, 65504)), (-mu, s^2), (s^2, mu) or (mu, c s^2)
    with one c for the layer, and that form explains at least 75 % of its deviation (`explained` in
    the evidence) in at least 80 % of the layers that deviate, or 97 % of that of a few; a power of
    the variance leaves at most 3 % or an RMS error of 0.06. Means are called moved where they
    deviate (RMS 0.15 sd) and the variances are right to within the noise of running averages, in a
    layer that is not fed an input itself: by the bias of the convolution or linear module before
    it, where mu - bias explains 75 %; or by one that was lost, where they are off by more of
    themselves than 6 times what the log standard deviations are off by, as weights that moved on
    (BN202) change both (up to 4.8 times in networks that trained on, from 7.3 with a lost bias).

    Fix: convert the numbers where they come from, or recalibrate, which measures them anew.
    """
    for words, form in FORMS:
        shares = {}
        for m in network.layers:
            with np.errstate(all="ignore"):
                shares[m.layer.name] = _form_share(network, m, form)
        if _by_one_script(network, shares):
            yield from _claim(self, network, words, shares, 0.0)
    yield from _factors(self, network)
    behind_something = [m for m in network.layers if not network.reads_itself(m)]
    moved = {m.layer.name: moved_share(m) for m in behind_something}
    if not any(moved.values()):
        return
    yield from _claim(
        self, network, "the means are those without the bias of the module before the layer: it "
        "was added after they were learned", shares_of_biases(network, moved), 0.0,
    )  # fmt: skip
    lost = {m.layer.name: 0.0 if lags(m) else moved[m.layer.name] for m in behind_something}
    words = "the means are moved, and the variances are right: a bias before the layer was lost or "
    words += "added"
    for claim in _claim(self, network, words, lost, float(network.stem.layer.channels)):
        yield _or_the_data(network, claim)


def _or_the_data(network: MeasuredNetwork, claim: Claim) -> Claim:
    """A claim about layers that read an input alone: shifted data move their means as well."""
    first = all(network.is_entry(m) for m in network.layers if claim.of(m.layer.name) >= LEAST)
    if not first or network.direction is Direction.WORSE:
        return claim
    return replace(
        claim,
        shares={name: min(explained, LEAST) for name, explained in claim.shares.items()},
        message=f"{claim.message}; shifted data would look the same",
        fault=Fault.EITHER,
        predicts=False,
    )


def _claim(
    self: Rule[MeasuredNetwork, Claim],
    network: MeasuredNetwork,
    words: str,
    shares: dict[str, float],
    free: float,
) -> Iterator[Claim]:
    explained = {name for name, share_ in shares.items() if share_ >= LEAST}
    concerned = [m for m in network.layers if m.layer.name in explained and network.is_off(m)]
    if concerned:
        yield Claim(
            self,
            {m.layer.name: shares[m.layer.name] for m in concerned},
            f"{words} (in {names(concerned)})",
            advice="or convert them where they come from",
            free=free,
        )


def _by_one_script(network: MeasuredNetwork, shares: dict[str, float]) -> bool:
    """A script converts all layers; a form that fits a few must fit these exactly."""
    fitting = [shares[name] for name in network.off if shares[name] >= LEAST]
    return len(fitting) >= _MOST_LAYERS * len(network.off) or min(fitting, default=0.0) >= _CERTAIN


def _form_share(network: MeasuredNetwork, m: MeasuredLayer, form: Form) -> float:
    """The share that a form explains; 0 where a mere factor, or the data's scale, does as well."""
    predicted = form(*m.seen)
    explained = share(m, *predicted)
    if explained < LEAST or not _most_channels(m, *predicted):
        return 0.0
    kept = np.array_equal(predicted[0], m.seen[0])
    if kept and explained < _CERTAIN and residual(m, *predicted) > _LEFT:
        return 0.0  # a power of the variance is nearly a factor where variances are alike
    if network.is_entry(m) and network.stem_alone and explained < _CERTAIN:
        return 0.0
    mean, var = m.seen
    return explained if explained >= share(m, mean, np.exp(_log_factor(m)) * var, 1) else 0.0


def _most_channels(m: MeasuredLayer, mean: Floats, var: Floats) -> bool:
    """Whether half of the channels that the form changes come nearer, and not a few alone."""
    seen_mean, seen_var = m.seen
    changed = (mean != seen_mean) | (var != seen_var)
    if not changed.any():
        return False
    before, after = error(m, seen_mean, seen_var)[changed], error(m, mean, var)[changed]
    return float(np.median(after)) <= (1 - LEAST) * float(np.median(before))


def _factors(self: Rule[MeasuredNetwork, Claim], network: MeasuredNetwork) -> Iterator[Claim]:
    """One factor for all layers, or for the only one that deviates; data may scale the first."""
    logs = {m.layer.name: _log_factor(m) for m in network.layers}
    off = [m for m in network.layers if network.is_off(m)]
    if len(off) >= 2 and len(off) == len(network.layers):
        middle = float(np.median([logs[m.layer.name] for m in off]))
        alike = all(abs(logs[m.layer.name] - middle) < _ALIKE for m in off)
        if alike:
            yield from _factor(self, network, off, middle)
            return
    if len(off) == 1 and not network.is_entry(off[0]):
        yield from _factor(self, network, off, logs[off[0].layer.name])


def _factor(
    self: Rule[MeasuredNetwork, Claim],
    network: MeasuredNetwork,
    layers: list[MeasuredLayer],
    log: float,
) -> Iterator[Claim]:
    if not np.log(_LEAST_FACTOR) <= abs(log) <= np.log(_MOST_FACTOR):
        return
    shares = {m.layer.name: 0.0 for m in network.layers}
    for m in layers:
        mean, var = m.seen
        explained = share(m, mean, np.exp(log) * var, 1)
        shares[m.layer.name] = explained if _is_one_factor(m) else 0.0
    yield from _claim(
        self, network, f"the variances are {np.exp(log):.2g} times what they should be", shares, 1.0
    )


def _is_one_factor(m: MeasuredLayer) -> bool:
    """Whether every channel's ratio is the same, to within the noise of running averages."""
    log = parts(m, *m.seen)[1]
    return float(np.std(log)) <= _SCATTER


def _log_factor(m: MeasuredLayer) -> float:
    var, seen = m.stored[1], m.seen[1]
    live = (var > 0) & (seen > 0)
    return float(np.median(np.log(var[live] / seen[live]))) if live.any() else 0.0
