"""`bncheck rule`: explanations, which judge nothing."""

from __future__ import annotations

from collections.abc import Sequence

from bncheck.reporting.document import Document, Fact, Table
from bncheck.rules.rule import AnyRule


def document(rule: AnyRule) -> Document:
    """A rule's whole explanation."""
    severities = ", ".join(severity.value for severity in rule.severities)
    paragraphs = rule.explanation.split("\n\n")
    facts = tuple(Fact(" ".join(paragraph.splitlines())) for paragraph in paragraphs)
    return Document("rule", f"{rule.code} {rule.name}  ({severities})", "", None, facts)


def index(rules: Sequence[AnyRule]) -> Document:
    """A line for each rule."""
    rows = tuple((rule.code, rule.name, rule.summary) for rule in rules)
    table = Table("Rules", ("code", "name", "what it finds"), rows)
    return Document("rule", "", "", None, tables=(table,))
