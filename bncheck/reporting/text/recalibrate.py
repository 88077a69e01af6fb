"""What `bncheck recalibrate` did, for the person at the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bncheck.core.words import count
from bncheck.measuring.results import Comparison
from bncheck.reporting.layout import layer_name
from bncheck.reporting.visible import visible

if TYPE_CHECKING:
    from bncheck.recalibrating.command import RecalibrationReport


#: Layers shown without --verbose: those that were worst.
_ROWS: Final = 20


def show(console: Console, report: RecalibrationReport, verbose: bool) -> None:
    """Before and after, by layer and for the whole model, and what was written."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    table.add_column("W2 before", justify="right")
    table.add_column("after", justify="right")
    shown = report.layers if verbose else _worst(report)
    for name in shown:
        before, after = report.before.get(name), report.after.get(name)
        table.add_row(Text(layer_name(name)), w2(before), w2(after))
    console.print(table)
    if len(shown) < len(report.layers):
        console.print(f"and {len(report.layers) - len(shown)} that were less wrong (--verbose)")
    if report.comparison is not None:
        console.print(Text(side_by_side(report.comparison, "before", "after")))
    if report.unreached:
        names = ", ".join(visible(name) for name in report.unreached[:4])
        console.print(Text(f"left as they were, because no data reached them: {names}"))
    for finding in report.findings:
        head = Text.assemble((finding.severity.value, "bold red"), f" {finding.rule} ")
        console.print(head.append(f"{finding.name}: {visible(finding.message, None)}"))
        console.print(Text.assemble(("fix: ", "green"), visible(finding.fix, None)))
    if report.written is not None:
        console.print(Text(visible(outcome(report), None)))


def _worst(report: RecalibrationReport) -> list[str]:
    """The layers that were furthest off, in the order of the model."""
    by_w2 = sorted(report.layers, key=lambda name: report.before.get(name) or 0.0, reverse=True)
    worst = set(by_w2[:_ROWS])
    return [name for name in report.layers if name in worst]


def outcome(report: RecalibrationReport) -> str:
    """What was written, and from what."""
    how = "by formula, without data"
    if report.samples is not None:
        how = f"from {count(report.samples, 'sample')}"
    return f"written {report.written}: {count(len(report.statistics), 'layer')} recalibrated {how}"


def side_by_side(c: Comparison, before: str, after: str) -> str:
    """Accuracy 0.561 before, 0.994 after; 43.1 % of predictions change."""
    parts = []
    if c.metric is not None and c.before is not None and c.after is not None:
        parts.append(f"{c.metric} {c.before:.4f} {before}, {c.after:.4f} {after}")
    if c.loss is not None:
        parts.append(f"loss {c.loss[0]:.4f} {before}, {c.loss[1]:.4f} {after}")
    if c.flips is not None:
        parts.append(f"{c.flips:.1%} of predictions change")
    elif c.output_change is not None:
        parts.append(f"outputs change by {c.output_change:.1%} (RMS)")
    return "; ".join(parts)


def w2(value: float | None) -> str:
    """A W2, or a dash where none was measured."""
    return "-" if value is None else f"{value:.3f}"
