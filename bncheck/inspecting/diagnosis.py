"""Measurement and findings on the file become one diagnosis: what is wrong, where, what to do.

One cause per model, the first of an ordered list of tests that fits. Findings on the file that the
measurement proves or disproves are revised: a prediction that the data refute is only a note.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.measuring.deviation import Deviation
from bncheck.measuring.measurement import MeasuredLayer, Measurement
from bncheck.measuring.results import Direction
from bncheck.rules.data.bn201_noisy import noisy
from bncheck.rules.data.bn202_stale import stale
from bncheck.rules.data.bn203_merged import merged
from bncheck.rules.data.bn204_ordered import ordered
from bncheck.rules.data.bn205_preprocessing import preprocessing
from bncheck.rules.data.bn206_dropout import dropout_shift
from bncheck.rules.data.bn207_disagree import disagree
from bncheck.rules.data.bn208_would_hurt import would_hurt
from bncheck.rules.data.bn209_single_value import single_value
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.rule import AnyRule, Rule
from bncheck.rules.static.bn101_never_updated import never_updated
from bncheck.rules.static.bn105_under_warmed import under_warmed
from bncheck.rules.static.bn112_momentum_convention import momentum_convention
from bncheck.rules.static.bn113_noisy_configuration import noisy_configuration

#: The order of the tests. Noise first, because a noisy first layer looks like a wrong input; the
#: dropout shift before merged models, because both have running variances that are too large.
_CAUSES: Final[tuple[Rule[MeasuredNetwork], ...]] = (
    noisy,
    preprocessing,
    dropout_shift,
    merged,
    stale,
    ordered,
    disagree,
)

#: Rules that predict from configuration what the data then show or do not show.
_PREDICTIONS: Final = (under_warmed, momentum_convention, noisy_configuration)

#: Share of the initial values in an average from which, and fit from which, it is under-warmed.
_LEAST_SHARE: Final = 0.05
_LEFT_OVER: Final = 0.35


def diagnose(
    measurement: Measurement,
    findings: Sequence[Finding],
    rules: Sequence[AnyRule],
    recalibrate: str,
) -> list[Finding]:
    """All findings, those on the file revised, the cause first within its severity."""
    network = MeasuredNetwork(measurement, recalibrate)
    allowed = {rule.code for rule in rules}
    found = [f for f in _found(network, allowed) if f.rule in allowed]
    causes = {(f.rule, f.layer) for f in found}
    revised = [_revised(f, network, found) for f in findings if (f.rule, f.layer) not in causes]
    return sorted([*found, *revised], key=lambda finding: finding.severity.rank)


def _found(network: MeasuredNetwork, allowed: set[str]) -> list[Finding]:
    """What the measurement itself gives: at most one cause."""
    single = list(single_value.check(network))
    if single:
        return single
    if not network.layers:
        return []
    if network.direction is Direction.WORSE:
        return _data_at_fault(network)
    if network.untouched and network.severity is not None and never_updated.code in allowed:
        return list(_never_updated(network))
    warming = list(_under_warmed(network))
    if warming:
        return warming
    for rule in _CAUSES:
        cause = list(rule.check(network))
        if cause:
            return cause
    return []


def _data_at_fault(network: MeasuredNetwork) -> list[Finding]:
    """The running statistics serve better: the data differ, or the statistics were frozen."""
    found = list(preprocessing.check(network))
    return found or (list(would_hurt.check(network)) if network.severity else [])


def _never_updated(network: MeasuredNetwork) -> Iterator[Finding]:
    """BN101, proved: every layer that is untouched and deviates by itself."""
    for measured in network.untouched:
        assert measured.batch is not None
        yield network.finding(
            never_updated,
            Severity.ERROR,
            measured,
            network.with_results(
                "running mean is exactly 0 and running variance exactly 1, and what the layer "
                f"sees is not (W2 {measured.batch.w2:.2f}): the statistics were never updated, or "
                "reset"
            ),
            f"run `{network.recalibrate}`",
            channels=measured.layer.channels,
        )


def _under_warmed(network: MeasuredNetwork) -> Iterator[Finding]:
    """BN105, from the data: one share of the initial 0 and 1 explains all deviations."""
    share = initial_share_seen(network.layers)
    severity = network.severity
    if severity is None or share < _LEAST_SHARE:
        return
    left = np.array([_without_initial(m, share) for m in network.layers])
    if float(np.median(left / np.maximum(network.w2, 1e-9))) > _LEFT_OVER:
        return
    yield network.finding(
        under_warmed,
        severity,
        network.culprit,
        network.with_results(
            f"{share:.0%} of every running average is still its initial 0 and 1, which explains "
            "what the layers deviate by: it saw too few batches for its momentum"
        ),
        f"run `{network.recalibrate}`; in training, take more batches or a larger momentum",
        initial_share=share,
    )


def initial_share_seen(layers: Sequence[MeasuredLayer]) -> float:
    """The w0 for which running = (1 - w0) seen + w0 initial fits best, 0 where none does.

    In the layers' own coordinates: running_mean - mean = -w0 mean and running_var - var =
    w0 (1 - var), least squares over all channels, then the median over layers: a fault that
    grows with depth fits no single w0.
    """
    shares = []
    for measured in layers:
        moments, statistics = measured.batch_moments, measured.layer.statistics
        if moments is None or statistics is None or measured.batch is None:
            continue
        mean, var = statistics
        scale = np.sqrt(var + (measured.layer.eps.value or 0.0) + 1e-12)
        pull = np.concatenate([-moments.mean / scale, (1 - moments.var) / (2 * scale**2)])
        seen = np.concatenate([(mean - moments.mean) / scale, (var - moments.var) / (2 * scale**2)])
        denominator = float(pull @ pull)
        if denominator > 0:
            shares.append(float(pull @ seen) / denominator)
    if not shares:
        return 0.0
    middle = float(np.median(shares))
    spread = float(np.median(np.abs(np.array(shares) - middle)))
    return middle if 0 < middle < 1 and spread <= 0.15 * middle + 0.02 else 0.0


def _without_initial(measured: MeasuredLayer, share: float) -> float:
    """W2 that is left when the initial value's share is taken out of the running average."""
    moments, statistics = measured.batch_moments, measured.layer.statistics
    assert moments is not None
    assert statistics is not None
    mean, var = statistics
    eps = measured.layer.eps.value or 0.0
    warm_mean, warm_var = mean / (1 - share), np.maximum((var - share) / (1 - share), 0.0)
    sigma = np.sqrt(warm_var + eps + 1e-12)
    d = (moments.mean - warm_mean) / sigma
    r = np.sqrt(moments.var + eps) / sigma
    left = Deviation(d, r, d, d, 1.0).channels
    # The variance of a nearly dead channel is all initial value, so its ratio says nothing.
    return float(np.median(left))


def _revised(finding: Finding, network: MeasuredNetwork, found: Sequence[Finding]) -> Finding:
    """A finding on the file in the light of the measurement."""
    measured = network.measurement.by_name().get(finding.layer or "")
    if finding.severity is Severity.INFO:
        return finding
    if any(rule.made(finding) for rule in _PREDICTIONS) and _refuted(measured, network):
        return replace(
            finding,
            severity=Severity.INFO,
            message=f"{finding.message}; measured, the statistics agree with the data",
            fix="nothing for inference",
        )
    if never_updated.made(finding) and _serves_well(measured, network):
        return replace(
            finding,
            severity=Severity.INFO,
            message=f"{finding.message}; measured, these statistics serve the data well",
            fix="leave it: the layer was trained like this",
        )
    repaired = never_updated.made(finding) or under_warmed.made(finding)
    if repaired and any(f.severity is not Severity.INFO for f in found):
        return replace(finding, fix=f"run `{network.recalibrate}`")
    return finding


def _refuted(measured: MeasuredLayer | None, network: MeasuredNetwork) -> bool:
    if measured is None or measured.eval is None:
        return network.severity is None
    return network.thresholds.severity(measured.eval.w2) is None


def _serves_well(measured: MeasuredLayer | None, network: MeasuredNetwork) -> bool:
    """The layer agrees with what it sees by itself, or measured statistics are worse."""
    if measured is None or measured.eval is None:
        return False
    alone = measured.batch or measured.eval
    return network.thresholds.severity(alone.w2) is None or network.direction is Direction.WORSE
