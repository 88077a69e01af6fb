"""The gate's report at the terminal: a paragraph for each model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from rich.console import Console, RenderableType
from rich.text import Text

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import count
from bncheck.gate.report import UNCHECKED, GateReport, ModelResult
from bncheck.reporting.document import Document
from bncheck.reporting.layout import STYLES, layer_name, print_all, row
from bncheck.reporting.visible import visible, visible_line

_STYLES: Final = {
    "healthy": STYLES[None],
    "suspect": STYLES[Severity.WARNING],
    "broken": STYLES[Severity.ERROR],
    UNCHECKED: STYLES[Severity.ERROR],
}
_NAMED: Final = 4  # layers named before "and N more"


def show(console: Console, report: GateReport, verbose: bool) -> None:
    """Print every model, and a last line that sums up."""
    for model in report.models:
        print_all(console, list(_model(model)))
        if verbose:
            for outcome in model.outcomes:
                print_all(console, [Text()])
                outcome.view.show(console, verbose=True)
        print_all(console, [Text()])
    counts = ", ".join(f"{number} {status}" for number, status in report.counts())
    print_all(console, [Text(f"{count(len(report.models), 'model')}: {counts}")])


def _model(model: ModelResult) -> Iterator[RenderableType]:
    word = model.status if model.status == "healthy" else model.status.upper()
    yield _row(Text(word, _STYLES[model.status]), Text(visible(model.name), "bold"))
    for outcome in model.outcomes:
        for document in outcome.view.documents():
            yield from _document(document)
    for error in model.errors:
        yield _row(Text(), Text(visible_line(str(error)), STYLES[Severity.ERROR]))


def _document(document: Document) -> Iterator[RenderableType]:
    head = Text(f"{document.command} {visible(document.subject, None)}: ")
    yield _row(Text(), head.append(visible(document.verdict), STYLES[document.standing]))
    serious = [f for f in document.findings if f.severity is not Severity.INFO]
    for (severity, rule), group in groupby(serious, key=lambda f: (f.severity, f.rule)):
        yield _row(Text(severity.value, STYLES[severity]), _findings(rule, list(group)))


def _findings(rule: str, findings: Sequence[Finding]) -> Text:
    first = findings[0]
    text = Text(f"{rule} {layer_name(first.layer)}: {visible(first.message, None)}")
    if len(findings) > 1:
        names = ", ".join(layer_name(f.layer) for f in findings[1:_NAMED])
        more = f" and {len(findings) - _NAMED} more" if len(findings) > _NAMED else ""
        text.append(f"\nlikewise: {names}{more}")
    return text.append("\nfix: ", "green").append(visible(first.fix, None))


def _row(label: Text, content: Text) -> RenderableType:
    """UNCHECKED is wider than the first column of other reports."""
    return row(label, content, width=len(UNCHECKED) + 1)
