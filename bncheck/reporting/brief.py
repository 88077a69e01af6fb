"""One line for each error and warning: what --quiet leaves, whatever the command."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from bncheck.core.findings import Severity
from bncheck.reporting.document import Document
from bncheck.reporting.layout import STYLES, layer_name
from bncheck.reporting.visible import visible


def show_findings(console: Console, documents: Iterable[Document]) -> None:
    """Print path, severity, rule, layer and message."""
    for document in documents:
        for finding in document.findings:
            if finding.severity is not Severity.INFO:
                line = Text(f"{visible(document.subject, None)}: ")
                line.append(finding.severity.value, STYLES[finding.severity])
                line.append(f" {finding.rule} ")
                line.append(f"{layer_name(finding.layer)}: {visible(finding.message, None)}")
                console.print(line, soft_wrap=True)
