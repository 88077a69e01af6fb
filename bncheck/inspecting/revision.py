"""Findings on the file in the light of a measurement, which proves or disproves them.

A prediction that the data refute is only a note.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from bncheck.core.findings import Finding, Severity
from bncheck.inspecting.advice import Advice
from bncheck.measuring.measurement import MeasuredLayer
from bncheck.measuring.results import Direction
from bncheck.rules.data.bn207_disagree import disagree
from bncheck.rules.data.bn208_would_hurt import would_hurt
from bncheck.rules.data.bn217_harmless import harmless
from bncheck.rules.data.measured_network import MeasuredNetwork
from bncheck.rules.static.bn101_never_updated import never_updated
from bncheck.rules.static.bn105_under_warmed import under_warmed
from bncheck.rules.static.bn112_momentum_convention import momentum_convention
from bncheck.rules.static.bn113_noisy_configuration import noisy_configuration
from bncheck.rules.static.bn117_other_weights import other_weights
from bncheck.rules.static.bn118_half_loaded import half_loaded

#: Rules that predict from configuration what the data then show or do not show.
_PREDICTIONS: Final = (under_warmed, momentum_convention, noisy_configuration)
#: Rules of the file that data prove.
PROVED: Final = (never_updated, half_loaded, under_warmed)
_KEEP: Final = "keep the statistics: nothing shows that measured ones would serve better"


def revised(
    finding: Finding, network: MeasuredNetwork, found: Sequence[Finding], advice: Advice
) -> Finding:
    """A finding on the file in the light of the measurement."""
    measured = network.measurement.by_name().get(finding.layer or "")
    if finding.severity is Severity.INFO:
        return finding
    if any(rule.made(finding) for rule in _PREDICTIONS) and _refuted(measured, network):
        return replace(
            finding,
            severity=Severity.INFO,
            message=f"{finding.message}; the data agree with the statistics",
            fix="nothing for inference",
        )
    if other_weights.made(finding) and any(_names_a_cause(f) for f in found):
        return replace(
            finding,
            severity=Severity.INFO,
            message=f"{finding.message}; measured, a cause was found that explains more",
        )
    if _may_be_meant(finding) and _serves_well(measured, network):
        return replace(
            finding,
            severity=Severity.INFO,
            message=f"{finding.message}; with the data, these statistics do well",
            fix="keep them: the layer was trained like this",
        )
    if advice is not Advice.RECALIBRATE:
        if finding.instead is None:
            return finding
        return replace(finding, fix=f"{finding.instead}; {_KEEP}")  # `recalibrate` would refuse
    proved = any(rule.made(finding) for rule in PROVED)
    if proved and any(f.severity is not Severity.INFO for f in found):
        return replace(finding, fix=f"run `{network.recalibrate}`")
    return finding


def _names_a_cause(finding: Finding) -> bool:
    """Whether an explanation was believed, and not only a disagreement found."""
    unexplained = (disagree, harmless, would_hurt)
    serious = finding.severity is not Severity.INFO
    return serious and not any(rule.made(finding) for rule in unexplained)


def _may_be_meant(finding: Finding) -> bool:
    """Whether a layer may have been trained with these statistics."""
    return never_updated.made(finding) or half_loaded.made(finding)


def _refuted(measured: MeasuredLayer | None, network: MeasuredNetwork) -> bool:
    if measured is None or measured.eval is None:
        return network.severity is None
    return network.thresholds.severity(measured.eval.w2) is None


def _serves_well(measured: MeasuredLayer | None, network: MeasuredNetwork) -> bool:
    """The layer agrees with what it sees by itself, or measured statistics are worse."""
    if measured is None or measured.eval is None:
        return False
    alone = measured.batch or measured.eval
    no_better = network.direction is Direction.WORSE or network.no_better
    no_better = no_better and not network.both_poor
    no_better = no_better or network.served_downstream(measured)
    return network.thresholds.severity(alone.w2) is None or no_better
