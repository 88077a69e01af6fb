"""Measurement and findings on the file become one diagnosis: what is wrong, where, what to do.

Explanations compete for the layers that deviate (rules/data/claim.py); results decide how severe it
is and what to do. Findings on the file are revised (revision.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from bncheck.core.findings import Finding, Severity
from bncheck.core.timing import timed
from bncheck.inspecting.advice import Advice
from bncheck.inspecting.revision import PROVED, revised
from bncheck.measuring.measurement import Measurement
from bncheck.measuring.results import Direction
from bncheck.rules.data.bn201_noisy import noisy, of_small_batches
from bncheck.rules.data.bn204_ordered import one_sided
from bncheck.rules.data.bn207_disagree import disagree
from bncheck.rules.data.bn208_would_hurt import one_sided_data, would_hurt
from bncheck.rules.data.bn209_single_value import single_value
from bncheck.rules.data.bn210_converted import converted
from bncheck.rules.data.bn211_exchanged import exchanged
from bncheck.rules.data.bn212_outlier import outlier
from bncheck.rules.data.bn213_weights import weights_at_fault
from bncheck.rules.data.bn215_shared import shared
from bncheck.rules.data.bn216_batch_dependent import batch_dependent
from bncheck.rules.data.bn217_harmless import harmless
from bncheck.rules.data.claim import MIDDLE, Claim, Fault, believed
from bncheck.rules.data.initial import initial_claims
from bncheck.rules.data.measured_network import MeasuredNetwork, own_w2
from bncheck.rules.data.noise import is_told_noise
from bncheck.rules.data.objection import GIVE_LABELS, Objection
from bncheck.rules.registry import EXPLANATIONS, LAST_EXPLANATIONS
from bncheck.rules.rule import AnyRule

#: With this an advice begins that is taken instead of another.
_OR: Final = "or "
#: A share that leaves nothing to explain.
_EXACTLY: Final = 0.95
#: Faults that new statistics do not mend, or need not.
_ELSEWHERE: Final = (Fault.DATA, Fault.EITHER, Fault.CODE)
#: Claims that the stored numbers carry by themselves: with no other fault would they be these.
_IN_THE_NUMBERS: Final = (*PROVED, converted, exchanged)
#: Of several claims the most cautious advice counts.
_CAUTIOUS: Final = (Advice.LEAVE, Advice.IF_DATA_FIT, Advice.IF_PROVEN, Advice.RECALIBRATE)
#: A share that is as good as all of it.
_EXACT: Final = 0.9995

#: Claims that are believed, each with its layers.
Won: TypeAlias = list[tuple[Claim, list[str]]]


@dataclass(frozen=True)
class Diagnosis:
    """All findings, the cause first within its severity, and the one decision behind every fix.

    `cause` is what the measurement shows first of all, and `objection` what speaks against measured
    statistics where something deviates.
    """

    findings: tuple[Finding, ...]
    advice: Advice
    cause: Finding | None = None
    objection: Objection | None = None


@timed("finding the cause")
def diagnose(
    measurement: Measurement,
    findings: Sequence[Finding],
    rules: Sequence[AnyRule],
    recalibrate: str,
) -> Diagnosis:
    """Find the causes among the rules that were chosen, and revise the findings on the file."""
    network = MeasuredNetwork(measurement, recalibrate)
    found, advice = _found(network, rules)
    found = [finding for finding in found if any(rule.made(finding) for rule in rules)]
    found = _as_serious(found, findings)
    causes = {(f.rule, f.layer) for f in found}
    on_file = [
        revised(f, network, found, advice) for f in findings if (f.rule, f.layer) not in causes
    ]
    ordered = sorted([*found, *on_file], key=lambda finding: finding.severity.rank)
    cause = next(iter(found), None)
    return Diagnosis(tuple(ordered), advice, cause, _objection(network, advice))


def _objection(network: MeasuredNetwork, advice: Advice) -> Objection | None:
    """What speaks against writing; of a model that agrees with its data nothing need be said."""
    if advice in (Advice.NOTHING, Advice.RECALIBRATE):
        return None
    return network.objection or (network.unproven if advice is Advice.IF_PROVEN else None)


def _as_serious(found: Sequence[Finding], said: Sequence[Finding]) -> list[Finding]:
    """What the file alone calls an error stays one, though results on these data are equal."""
    errors = {(f.rule, f.layer) for f in said if f.severity is Severity.ERROR}
    return [
        replace(f, severity=Severity.ERROR) if (f.rule, f.layer) in errors else f for f in found
    ]


def _found(network: MeasuredNetwork, rules: Sequence[AnyRule]) -> tuple[list[Finding], Advice]:
    """What the measurement itself gives, and what to do."""
    single = list(single_value.check(network))
    if single:
        return single, Advice.LEAVE
    if not network.layers:
        return [], Advice.NOTHING
    if network.trained_like_this:
        return [], Advice.LEAVE
    for rule in (batch_dependent, weights_at_fault):
        hopeless = list(rule.check(network)) if rule in rules else []
        if hopeless and rule is batch_dependent:
            hopeless = _because_shared(network, rules) or hopeless
        if hopeless:
            return hopeless, Advice.LEAVE
    won = _won(network, rules)
    if network.direction is Direction.WORSE:
        return _running_serve_better(network, won)
    if network.severity is None:
        return _mild(network, won)
    return _explained(network, won)


def _because_shared(network: MeasuredNetwork, rules: Sequence[AnyRule]) -> list[Finding]:
    """Only batch statistics serve: because one layer has inputs of different distributions?"""
    claims = shared.check(network) if shared in rules else ()
    return [_finding(network, claim, list(claim.shares), Advice.LEAVE) for claim in claims]


def _won(network: MeasuredNetwork, rules: Sequence[AnyRule]) -> Won:
    """What is believed; other code is tried only where nothing predicts the numbers."""
    claims = list(_claims(network, rules))
    won = believed(claims, network.off)
    exact = [(c, layers) for c, layers in won if c.predicts and c.free < MIDDLE]
    asked = network.severity is not None or network.costs_results
    if not asked or _explains(network, exact, _EXACTLY):
        return won
    last = [c for rule in LAST_EXPLANATIONS if rule in rules for c in rule.check(network)]
    small = list(of_small_batches(network)) if noisy in rules else []
    noise = [c for c in claims if c.rule is noisy]
    better = max([*noise, *small], key=lambda c: network.whole_share(c.shares), default=None)
    claims = [c for c in claims if c not in noise or c is better]
    last += [c for c in small if c is better]
    last += one_sided(network) if would_hurt in rules else ()
    return believed([*claims, *last], network.off) if last else won


def _explains(network: MeasuredNetwork, won: Won, least: float = 0.5) -> bool:
    """Whether at least half, or another share, of the whole deviation is claimed."""
    claimed = sum(network.off[name] * c.of(name) for c, layers in won for name in layers)
    return bool(won) and claimed >= least * sum(network.off.values())


def _claims(network: MeasuredNetwork, rules: Sequence[AnyRule]) -> Iterator[Claim]:
    for claim in (*initial_claims(network), *one_sided_data(network)):
        if claim.rule in rules:
            yield claim
    for rule in EXPLANATIONS:
        if rule in rules:
            yield from rule.check(network)


def _running_serve_better(network: MeasuredNetwork, won: Won) -> tuple[list[Finding], Advice]:
    """The data differ from those of training, or the statistics were frozen: leave them."""
    about_data = [(c, layers) for c, layers in won if c.fault in _ELSEWHERE or c.stands]
    if network.severity is None:
        about_data = [(c, layers) for c, layers in about_data if c.evidence.get("candidate")]
    found = [_finding(network, c, layers, Advice.LEAVE) for c, layers in about_data[:1]]
    if not found and network.severity is not None:
        found = list(would_hurt.check(network))
    return found, Advice.LEAVE


def _mild(network: MeasuredNetwork, won: Won) -> tuple[list[Finding], Advice]:
    """W2 is small: a finding is what costs results, or a preparation of the data that fits."""
    named = [(c, layers) for c, layers in won if c.evidence.get("candidate") and c.predicts]
    if not named and network.costs_results and not is_told_noise(network):
        return _explained(network, won)
    advice = _advice(network, *named[0]) if named else Advice.NOTHING
    return [_finding(network, c, layers, advice) for c, layers in named[:1]], advice


def _explained(network: MeasuredNetwork, won: Won) -> tuple[list[Finding], Advice]:
    if network.direction is Direction.SAME and not network.both_poor:
        won = [(c, layers) for c, layers in won if _stands(network, c)]
    if _explains(network, won):
        advice = min((_advice(network, *claimed) for claimed in won), key=_CAUTIOUS.index)
        return [_finding(network, c, layers, advice) for c, layers in won], advice
    if network.direction is Direction.SAME and not network.both_poor:
        return list(harmless.check(network)), Advice.IF_DATA_FIT
    advice = Advice.RECALIBRATE if network.shown_by_results else _if_at_all(network)
    return list(disagree.check(network)), advice


def _if_at_all(network: MeasuredNetwork) -> Advice:
    """Where nothing shows that the statistics are at fault: what could."""
    return Advice.IF_DATA_FIT if network.labelled else Advice.IF_PROVEN


def _stands(network: MeasuredNetwork, claim: Claim) -> bool:
    """Whether a claim is made though results are equal: patterns alone would be a story."""
    if claim.fault is not Fault.STATISTICS or claim.stands:
        return True
    return claim.predicts and not network.no_better


def _advice(network: MeasuredNetwork, claim: Claim, layers: list[str]) -> Advice:
    if network.direction is Direction.WORSE or claim.fault in (Fault.DATA, Fault.CODE):
        return Advice.LEAVE
    if network.direction is Direction.SAME and network.both_poor:
        return Advice.IF_DATA_FIT  # statistics alone do not make this network work
    if claim.fault is Fault.EITHER or _may_be_data(network, claim, layers):
        return Advice.IF_DATA_FIT
    if not (claim.predicts or network.data_fit or network.mostly_restored):
        return _if_at_all(network)
    shown = claim.rule in _IN_THE_NUMBERS or network.unproven is None
    return Advice.RECALIBRATE if shown and network.objection is None else Advice.IF_PROVEN


def _may_be_data(network: MeasuredNetwork, claim: Claim, layers: list[str]) -> bool:
    """Whether scaled or blurred data would look the same, unless results are restored.

    A factor or an offset of the first layer alone may as well be one of the data; so may the larger
    variance that one batch left.
    """
    if network.measured_work:
        return False
    if claim.rule is outlier:
        return network.labelled
    return claim.rule is converted and layers == [network.stem.layer.name]


def _finding(network: MeasuredNetwork, claim: Claim, layers: list[str], advice: Advice) -> Finding:
    """The claim as a finding at the worst of its layers."""
    by_name = network.measurement.by_name()
    worst = max((by_name[name] for name in layers), key=own_w2)
    share = min(claim.of(worst.layer.name), 1.0)
    severity = max(network.severity or Severity.WARNING, claim.most, key=lambda s: s.rank)
    harmless = network.works and network.direction is not Direction.WORSE
    if harmless and claim.fault in (Fault.DATA, Fault.EITHER):
        severity = Severity.INFO  # a better preparation could gain next to nothing
    elif network.direction is Direction.SAME:
        severity = max(severity, Severity.WARNING, key=lambda s: s.rank)
    return network.finding(
        claim.rule,
        severity,
        worst,
        network.with_results(_message(claim, share)),
        _fix(network, claim, advice),
        explained=round(share, 3),
        **claim.evidence,
    )


def _message(claim: Claim, share: float) -> str:
    """The claim with what it rests on; a pattern has no share, and an exact match needs none."""
    if not claim.predicts or share >= _EXACT:
        return claim.message
    return f"{claim.message} (explains {share:.0%} of the deviation)"


def _fix(network: MeasuredNetwork, claim: Claim, advice: Advice) -> str:
    if advice is Advice.RECALIBRATE:
        return _joined(f"run `{network.recalibrate}`", claim.advice)
    if advice is Advice.IF_DATA_FIT:
        condition = f"if these data are what deployment sees, {network.recalibrate_anyway}"
        if claim.advice and claim.fault is not Fault.STATISTICS:
            return f"{condition}; if not, {claim.advice.removeprefix(_OR)}"
        return _joined(condition, claim.advice)
    if advice is Advice.IF_PROVEN and not network.labelled:
        return _joined(GIVE_LABELS, claim.advice)
    against = network.objection or (network.unproven if advice is Advice.IF_PROVEN else None)
    keep = "keep the statistics as they are"
    if network.direction is Direction.WORSE:
        keep = "keep the statistics: measured ones would do worse"
    elif against is not None:
        keep = f"keep the statistics: {against.why}"
    return f"{claim.advice.removeprefix(_OR)}; {keep}" if claim.advice else keep


def _joined(first: str, advice: str) -> str:
    """What to do, and what else: instead of it ("or ...") or beside it."""
    return f"{first}{', ' if advice.startswith(_OR) else '; '}{advice}" if advice else first
