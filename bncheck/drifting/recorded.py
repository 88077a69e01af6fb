"""What was found while the training ran, beside what the snapshots show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from bncheck.core.findings import Finding
from bncheck.core.words import as_argument
from bncheck.reading.record import Recorded
from bncheck.rules.rule import AnyRule


def with_recorded(
    findings: Iterable[Finding], recorded: Iterable[Recorded], rules: Sequence[AnyRule]
) -> Iterator[Finding]:
    """The findings, with the step at which each was first made, then those that only a record has.

    Of a record only facts are believed: which rule, layer and step. The sentences are the rule's.
    What was found in another model of the training has that model's name before its layer.
    """
    known = {rule.code: rule for rule in rules}
    first: dict[tuple[str, str | None], Recorded] = {}
    for told in sorted(recorded, key=lambda told: told.step):
        if told.rule in known:
            first.setdefault((told.rule, told.place), told)
    for finding in findings:
        dated = first.pop((finding.rule, finding.layer), None)
        yield finding if dated is None else _dated(finding, dated.step)
    for (code, place), told in first.items():
        rule, step = known[code], told.step
        other = f"`--key {as_argument(told.series)}` shows that model; " if told.series else ""
        more = {"series": told.series} if told.series else {}
        severity = next((s for s in rule.severities if s.value == told.severity), None)
        yield rule.finding(
            severity or rule.severities[0],
            place,
            f"was found at step {step:,} in training: {_within(rule.summary.rstrip('.'))}",
            f"{other}{rule.fix}; look at what happened at that step",
            step=step,
            **more,
        )


def _within(sentence: str) -> str:
    """A sentence after a colon: NaN and BatchNorm keep their capitals."""
    word = sentence.partition(" ")[0]
    return sentence[0].lower() + sentence[1:] if word[1:] == word[1:].lower() else sentence


def _dated(finding: Finding, step: int) -> Finding:
    told = f"step {step:,}" in finding.message
    message = finding.message if told else f"{finding.message}; found at step {step:,} in training"
    return replace(finding, message=message, evidence={**finding.evidence, "step": step})
