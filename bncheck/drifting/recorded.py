"""What was found while the training ran, beside what the snapshots show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from bncheck.core.findings import Finding
from bncheck.reading.record import Recorded
from bncheck.rules.rule import AnyRule


def with_recorded(
    findings: Iterable[Finding], recorded: Iterable[Recorded], rules: Sequence[AnyRule]
) -> Iterator[Finding]:
    """The findings, with the step at which each was first made, then those that only a record has.

    Of a record only facts are believed: which rule, layer and step. The sentences are the rule's.
    """
    known = {rule.code: rule for rule in rules}
    first: dict[tuple[str, str | None], Recorded] = {}
    for told in sorted(recorded, key=lambda told: told.step):
        if told.rule in known:
            first.setdefault((told.rule, told.layer), told)
    for finding in findings:
        dated = first.pop((finding.rule, finding.layer), None)
        yield finding if dated is None else _dated(finding, dated.step)
    for (code, layer), told in first.items():
        rule, step = known[code], told.step
        severity = next((s for s in rule.severities if s.value == told.severity), None)
        yield rule.finding(
            severity or rule.severities[0],
            layer,
            f"was found at step {step:,} in training: {rule.summary}",
            f"`bncheck rule {code}` says what to do; look at what happened at that step",
            step=step,
        )


def _dated(finding: Finding, step: int) -> Finding:
    told = f"step {step:,}" in finding.message
    message = finding.message if told else f"{finding.message}; found at step {step:,} in training"
    return replace(finding, message=message, evidence={**finding.evidence, "step": step})
