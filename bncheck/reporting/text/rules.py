"""What `bncheck rule` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bncheck.reporting.layout import STYLES, print_all
from bncheck.rules.rule import AnyRule


def show_rule(console: Console, rule: AnyRule) -> None:
    """A rule's whole explanation."""
    head = Text.assemble((f"{rule.code} {rule.name}", "bold"), "  (")
    for index, severity in enumerate(rule.severities):
        head.append(", " if index else "").append(severity.value, STYLES[severity])
    paragraphs = rule.explanation.split("\n\n")
    body = Text("\n\n".join(" ".join(p.splitlines()) for p in paragraphs))
    print_all(console, [head.append(")"), Text(), body])


def show_rules(console: Console, rules: Sequence[AnyRule]) -> None:
    """A line for each rule."""
    table = Table.grid(padding=(0, 2))
    for rule in rules:
        table.add_row(rule.code, Text(rule.name, "bold"), Text(rule.summary))
    print_all(console, [table])
