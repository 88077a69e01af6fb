"""What a project makes of findings: rules chosen, severities changed, exceptions, a baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from bncheck.core.errors import DOCS
from bncheck.core.findings import FailOn, Finding, Severity, Silenced
from bncheck.core.matching import matches
from bncheck.core.thresholds import DEFAULT, Thresholds
from bncheck.core.wrappers import LayerNames

if TYPE_CHECKING:
    from bncheck.policy.baseline import Baseline
    from bncheck.policy.config.settings import Ignored
    from bncheck.rules.choosing import Chosen

#: A frozen report with a field `findings`.
Report = TypeVar("Report", bound=Any)


@dataclass(frozen=True)
class SortedFindings:
    """Findings as the project sees them: those that count, known ones, and excepted ones.

    `used` holds the places of the exceptions that applied, `silenced` what those and the baseline
    left out, each with where it is said; `names` are those of the network's layers.
    """

    findings: tuple[Finding, ...]
    names: LayerNames
    known: tuple[Finding, ...] = ()
    excepted: tuple[Finding, ...] = ()
    used: frozenset[int] = frozenset()
    silenced: tuple[Silenced, ...] = ()

    def applied_to(self, report: Report) -> Report:
        """The report with the findings that count; one with a field `known` gets the known ones."""
        known = {"known": self.known} if hasattr(report, "known") else {}
        return replace(report, findings=self.findings, silenced=self.silenced, **known)


@dataclass(frozen=True)
class Policy:
    """Which findings count, and how much. `select` and `ignore` are words for `choose_rules`."""

    select: Sequence[str] = ()
    ignore: Sequence[str] = ()
    severity: Mapping[str, Severity] = field(default_factory=dict)
    exceptions: tuple[Ignored, ...] = ()
    thresholds: Thresholds = DEFAULT
    fail_on: FailOn = FailOn.ERROR
    baseline: Baseline | None = None
    docs_url: str = DOCS

    @cached_property
    def _rules(self) -> Chosen:
        return _chosen(self.select, self.ignore)

    @cached_property
    def _severities(self) -> list[tuple[Chosen, Severity]]:
        """A longer word is more particular, so it comes last and wins."""
        by_length = sorted(self.severity.items(), key=lambda item: len(item[0]))
        return [(_chosen([word]), severity) for word, severity in by_length]

    @cached_property
    def _excepted(self) -> list[Chosen]:
        return [_chosen([entry.rule]) for entry in self.exceptions]

    def sort(
        self,
        findings: Iterable[Finding],
        model: str | None = None,
        layers: Iterable[str] = (),
        owner: str | None = None,
    ) -> SortedFindings:
        """The findings, sorted into what counts and what does not, worst first.

        `layers` are all layers of the network: they tell whose name is whose, wrapped or not.
        `owner` is the declared model whose file this is, where no gate says it.
        """
        counted, known, excepted, silenced = [], [], [], []
        findings = tuple(findings)
        names = LayerNames.of([*layers, *(finding.layer for finding in findings)])
        used: set[int] = set()
        for finding in findings:
            if not self._rules.made(finding):
                continue
            given = [severity for rules, severity in self._severities if rules.made(finding)]
            changed = replace(finding, severity=[finding.severity, *given][-1])
            places = [
                i for i in range(len(self.exceptions)) if self._excepts(i, changed, model, names)
            ]
            used.update(places)
            if places:
                excepted.append(changed)
                silenced.append(Silenced(changed, _said(self.exceptions[places[0]])))
            elif self.baseline is not None and self.baseline.covers(changed, model or owner, names):
                known.append(changed)
                silenced.append(Silenced(changed, f"known: {self.baseline.path}"))
            else:
                counted.append(changed)
        counted.sort(key=lambda finding: finding.severity.rank)
        return SortedFindings(
            tuple(counted), names, tuple(known), tuple(excepted), frozenset(used), tuple(silenced)
        )

    def asks(self, rule: str) -> bool:
        """Whether a rule counts, by its code."""
        return self._rules.asks(rule)

    def _excepts(self, place: int, finding: Finding, model: str | None, names: LayerNames) -> bool:
        entry = self.exceptions[place]
        return (
            self._excepted[place].made(finding)
            and names.match(finding.layer or "", entry.layers)
            and matches(model or "", entry.models)
        )


def _said(entry: Ignored) -> str:
    return f"[[tool.bncheck.ignore]]: {entry.reason}"


def _chosen(select: Sequence[str], ignore: Sequence[str] = ()) -> Chosen:
    from bncheck.rules.choosing import choose_rules  # NumPy, which no --help needs

    return choose_rules(select, ignore)
