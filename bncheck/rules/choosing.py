"""Which rules count: all, or those selected, less those ignored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, overload

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import shortened
from bncheck.rules.rule import AnyRule, Rule

#: Layers that a line names.
_NAMED: Final = 3
_KINDS: Final = {Severity.ERROR: "an error", Severity.WARNING: "a warning"}


@dataclass(frozen=True)
class Chosen(Sequence[AnyRule]):
    """The chosen rules, in the order of their codes.

    Whether a rule is among them is told without the others: the registry imports them all.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __contains__(self, rule: object) -> bool:
        return isinstance(rule, Rule) and self._has(rule.code, rule.name)

    def made(self, finding: Finding) -> bool:
        """Whether a finding is of one of these rules."""
        return self._has(finding.rule, finding.name)

    def asks(self, code: str) -> bool:
        """Whether the rule with this code is one of them."""
        return not (self.select or self.ignore) or any(rule.code == code for rule in self)

    def _has(self, code: str, name: str) -> bool:
        selected = not self.select or any(_means(word, code, name) for word in self.select)
        return selected and not any(_means(word, code, name) for word in self.ignore)

    def __iter__(self) -> Iterator[AnyRule]:
        from bncheck.rules.registry import RULES

        return (rule for rule in RULES if rule in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @overload
    def __getitem__(self, place: int) -> AnyRule: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[AnyRule]: ...
    def __getitem__(self, place: int | slice) -> AnyRule | Sequence[AnyRule]:
        return list(self)[place]


def choose_rules(select: Sequence[str], ignore: Sequence[str]) -> Chosen:
    """The rules to run. Raises BncheckError for a word that means none.

    Each word is a code, a name, or the beginning of a code ("BN1"); commas separate several.
    """
    chosen = Chosen(_words(select), _words(ignore))
    for word in (*chosen.select, *chosen.ignore):
        _check(word)
    return chosen


def switched_off(
    findings: Iterable[Finding], select: Sequence[str], ignore: Sequence[str]
) -> Iterator[str]:
    """A line for each rule that is ignored, and would have been an error or a warning."""
    chosen, selected = choose_rules(select, ignore), choose_rules(select, ())
    off: dict[str, list[Finding]] = {}
    for finding in findings:
        serious = finding.severity is not Severity.INFO
        if serious and selected.made(finding) and not chosen.made(finding):
            off.setdefault(finding.rule, []).append(finding)
    for code, found in off.items():
        worst = min((f.severity for f in found), key=lambda severity: severity.rank)
        names = [f.layer for f in found if f.layer is not None]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        place = f" in {', '.join(map(shortened, names[:_NAMED]))}{more}" if names else ""
        yield f"{code} {found[0].name} is ignored; it would be {_KINDS[worst]}{place}"


def _words(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.strip() for words in given for part in words.split(","))


def _check(word: str) -> None:
    from bncheck.rules.file_rules import FILE_RULES

    if any(_means(word, rule.code, rule.name) for rule in FILE_RULES):
        return  # without importing the others
    from bncheck.rules.registry import RULES, find_rule

    if not any(_means(word, rule.code, rule.name) for rule in RULES):
        find_rule(word)


def _means(word: str, code: str, name: str) -> bool:
    return (bool(word) and code.startswith(word.upper())) or word.lower() == name
