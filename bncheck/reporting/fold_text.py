"""The fold report for the person at the terminal: a line for each normalisation, then the proof."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bncheck.findings import Severity
from bncheck.folding.plan import Decision, Status
from bncheck.folding.result import FoldReport, Parity
from bncheck.reporting.visible import visible
from bncheck.rules.rule import count

_STYLES = {Status.FOLDED: "green", Status.MERGED: "green", Status.KEPT: "yellow"}


def show(console: Console, path: str, report: FoldReport, verbose: bool) -> None:
    """Print every decision, the parity figure and where the result is."""
    console.print(Text.assemble((visible(path, None), "bold"), f"  {_summary(report)}"))
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for decision in report.batchnorms:
        table.add_row(visible(decision.name), _decision(decision, verbose))
    if report.batchnorms:
        console.print(table)
    if report.parity is not None:
        console.print(_parity(report.parity))
    if report.flushed:
        console.print(f"{count(report.flushed, 'subnormal number')} became 0")
    if report.output is not None:
        console.print(Text.assemble("written: ", (visible(report.output, None), "bold")))


def show_findings(console: Console, path: str, report: FoldReport) -> None:
    """One line for each error and warning: what --quiet leaves."""
    for finding in report.findings:
        if finding.severity is not Severity.INFO:
            layer = visible(finding.layer or "whole model")
            console.print(
                f"{visible(path, None)}: {finding.severity.value} {finding.rule} {layer}: "
                f"{visible(finding.message, None)}",
                soft_wrap=True,
            )


def _summary(report: FoldReport) -> str:
    total = len(report.batchnorms)
    if not total:
        return "no BatchNorm in it"
    return f"{count(total, 'BatchNorm')}, {report.folded} folded, {len(report.kept)} kept"


def _decision(decision: Decision, verbose: bool) -> Text:
    text = Text(decision.status.value, _STYLES[decision.status])
    if decision.status is Status.KEPT:
        text.append(f": {visible(decision.reason, None)}", "default")
        if decision.hint:
            text.append(f" ({visible(decision.hint, None)})", "dim")
        return text
    text.append(f" into {visible(', '.join(decision.into), None)}", "default")
    if decision.through and verbose:
        text.append(f" through {visible(', '.join(decision.through), None)}", "dim")
    return text


def _parity(parity: Parity) -> Text:
    batches = " and ".join(str(batch) for batch in parity.batches)
    sign = "<=" if parity.max_relative_error <= parity.tolerance else ">"
    text = Text.assemble(
        f"parity: largest relative error {parity.max_relative_error:.2g} {sign} "
        f"{parity.tolerance:.2g}, against the original in float64, batch size {batches}"
    )
    if parity.max_relative_error > parity.tolerance:
        text.append(f"; the original's own rounding: {parity.original_error:.2g}")
    if not parity.holds:
        place = f" from {visible(parity.parts_at)} on" if parity.parts_at else ""
        text.append(f"\nNOT THE SAME FUNCTION{place}: nothing was written", "bold red")
    return text
