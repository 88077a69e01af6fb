"""The fold report for the person at the terminal: verdict, proof, and what stays and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bncheck.core.findings import Severity
from bncheck.core.words import count
from bncheck.folding.planner.plan import Decision, Status
from bncheck.folding.result import FoldReport, Parity
from bncheck.reporting.layout import layer_name, print_all, row
from bncheck.reporting.visible import visible

_NAMED: Final = 3  # norms named before "and N more"
#: "layer1.0.relu (relu)" differs from norm to norm where the reason is the same.
_PLACE: Final = re.compile(r"\S+ \((\w+)\)")
_STAYING: Final = re.compile(r"\S+(?=,(?: which is)? itself a normalisation)")
_AND: Final = re.compile(r", (?=[^,]*$)")


def show(
    console: Console, path: str, report: FoldReport, *, every: bool, dry_run: bool = False
) -> None:
    """Print the verdict, the proof and what stays; with `every` a line for each normalisation."""
    word, style = verdict(report, dry_run)
    parts: list[RenderableType] = [
        row(Text(word, style), Text(visible(path, None), "bold")),
        row(Text(), Text(summary(report, dry_run))),
    ]
    if report.parity is not None:
        parts.append(row(Text(), parity_text(report.parity)))
    if report.flushed:
        parts.append(row(Text(), Text(f"{count(report.flushed, 'subnormal number')} became 0")))
    if not dry_run and (report.batchnorms or report.output):
        parts.append(row(Text(), _destination(report)))
    for group in groups(report.kept):
        parts += [Text(), _kept(group, _severity(report, group[0]), every)]
    if every and report.folded:
        parts += [Text(), _table([d for d in report.batchnorms if d.status is not Status.KEPT])]
    print_all(console, parts)


def verdict(report: FoldReport, dry_run: bool) -> tuple[str, str]:
    """The first word, and its style."""
    if report.parity is not None and not report.parity.holds:
        return "FAILED", "bold red"
    if any(finding.severity is Severity.ERROR for finding in report.findings):
        return "KEPT", "bold red"
    if dry_run:
        return "plan", "bold cyan"
    if not report.folded:
        return ("kept" if report.batchnorms else "nothing"), "bold cyan"
    return ("partly", "bold cyan") if report.kept else ("folded", "bold green")


def summary(report: FoldReport, dry_run: bool) -> str:
    """How many of how many."""
    total = len(report.batchnorms)
    if not total:
        return "no BatchNorm in it, so there is nothing to fold"
    verb = "can be folded" if dry_run else "folded"
    return f"{report.folded} of {count(total, 'BatchNorm')} {verb}"


def parity_text(parity: Parity) -> Text:
    """The proof in a sentence."""
    sizes = [str(batch) for batch in dict.fromkeys(parity.batches)]
    if len(sizes) > 1:
        where = f"in batches of {_AND.sub(' and ', ', '.join(sizes))}"
    else:
        where = f"in batches of {sizes[0]}, the only size it takes" if sizes else "on no input"
    text = Text(
        f"parity: {parity.max_relative_error:.2g} is the largest relative error of an output "
        f"channel {where}, against the original in float64 (tolerance {parity.tolerance:.0e})"
    )
    if parity.max_relative_error > parity.tolerance:
        text.append(f"; the original's own rounding makes {parity.original_error:.2g}")
        text.append(" (ten times that is allowed)" if parity.holds else "")
    if parity.argmax_agreement is not None and parity.argmax_agreement < 1:
        text.append(f"; the same class is largest for {parity.argmax_agreement:.1%}")
    return text


def _destination(report: FoldReport) -> Text:
    if report.output is not None:
        return Text.assemble("written ", (visible(report.output, None), "bold"))
    if report.parity is not None and not report.parity.holds:
        place = visible(report.parity.parts_at or "")
        where = f" from {place} on" if place else ""
        return Text(f"nothing was written: beyond the tolerance{where}", "bold red")
    return Text("nothing was written: --fail-unfolded", "bold red")


def _severity(report: FoldReport, decision: Decision) -> Severity:
    """How serious it is that this one stays."""
    for finding in report.findings:
        if finding.layer == decision.name and finding.rule in ("BN402", "BN403"):
            return finding.severity
    return Severity.INFO


def groups(kept: Sequence[Decision]) -> Iterator[list[Decision]]:
    """Those that stay for the same reason, in the order of the first; details may differ."""
    groups: dict[tuple[str, str, bool], list[Decision]] = {}
    for decision in kept:
        key = (general(decision.reason), decision.hint, decision.overflow)
        groups.setdefault(key, []).append(decision)
    yield from groups.values()


def general(reason: str) -> str:
    """The reason without the names of the calls concerned, so that equal ones meet."""
    return _STAYING.sub("another one", _PLACE.sub(lambda m: _article(m[1]), reason))


def _article(kind: str) -> str:
    return f"{'an' if kind[0].lower() in 'aeio' else 'a'} {kind}"


def _kept(group: list[Decision], severity: Severity, every: bool) -> RenderableType:
    reasons = {decision.reason for decision in group}
    first = group[0]
    names = Text(_names(group), "bold")
    if len(group) > 1:
        names = Text.assemble(f"{len(group)} BatchNorms: ", names)
    reason = first.reason if len(reasons) == 1 else general(first.reason)
    lines: list[RenderableType] = [names, Text(visible(reason, None))]
    if every and len(reasons) > 1:
        lines = [
            Text.assemble((layer_name(d.name), "bold"), f": {visible(d.reason, None)}")
            for d in group
        ]
    if first.hint:
        lines.append(Text.assemble(("fix: ", "green"), visible(first.hint, None)))
    style = "bold red" if severity is Severity.ERROR else "yellow"
    return row(Text("kept", style), Group(*lines))


def _names(group: Sequence[Decision]) -> str:
    names = ", ".join(layer_name(decision.name) for decision in group[:_NAMED])
    more = len(group) - _NAMED
    return f"{names} and {more} more" if more > 0 else names


def _table(decisions: Sequence[Decision]) -> RenderableType:
    """A line for each that went, with where it went."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("BatchNorm", overflow="fold")
    table.add_column("went into", overflow="fold")
    through = any(decision.through for decision in decisions)
    if through:
        table.add_column("through", overflow="fold")
    for decision in decisions:
        into = visible(", ".join(decision.into), None) or "nothing: it changes nothing"
        cells = [layer_name(decision.name), into]
        if through:
            cells.append(visible(", ".join(decision.through), None))
        table.add_row(*(Text(cell) for cell in cells))
    return table
