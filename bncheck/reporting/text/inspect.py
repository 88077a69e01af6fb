"""The report for the person at the terminal: verdict, findings, and the table on request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bncheck.core.findings import Finding, Severity, Verdict
from bncheck.core.words import count
from bncheck.inspecting.report import InspectReport
from bncheck.layers.norm_layer import Setting
from bncheck.reporting.layout import STYLES, layer_name, print_all, row
from bncheck.reporting.spark import BINS, histogram, log_range
from bncheck.reporting.text import measured
from bncheck.reporting.visible import visible

if TYPE_CHECKING:
    from bncheck.layers.norm_layer import NormLayer
    from bncheck.reading.tensors import Array

_VERDICTS = {
    Verdict.BROKEN: STYLES[Severity.ERROR],
    Verdict.SUSPECT: STYLES[Severity.WARNING],
    Verdict.HEALTHY: STYLES[None],
}
#: A command in a fix is shown below the report instead.
_COMMAND = re.compile(r"run `((?:PYTHONPATH=\S+ )?bncheck recalibrate .+?)`(?=[\s;,.:)]|$)")
_BELOW = "recalibrate (the command below)"
_NAMED = 4  # layers named before "and N more"


def show(console: Console, reports: Sequence[InspectReport], verbose: bool) -> None:
    """Print every report, and a last line that sums up where there are several."""
    parts: list[RenderableType] = []
    for index, report in enumerate(reports):
        parts += [Text()] * bool(index) + _report(report, verbose)
        for command in _commands(report):  # on a line of its own, to be copied whole
            line = Text.assemble(("next:    ", "green"), command, no_wrap=True)
            parts += [Text(), line]
    if len(reports) > 1:
        verdicts = [report.summary.verdict for report in reports]
        counts = [f"{verdicts.count(v)} {v.value}" for v in Verdict if v in verdicts]
        parts += [Text(), Text(f"{count(len(reports), 'checkpoint')}: {', '.join(counts)}")]
    print_all(console, parts)


def _report(report: InspectReport, verbose: bool) -> list[RenderableType]:
    verdict = report.summary.verdict
    word = verdict.value if verdict is Verdict.HEALTHY else verdict.value.upper()
    parts: list[RenderableType] = [
        row(Text(word, _VERDICTS[verdict]), Text(visible(report.subject, None), "bold")),
        row(Text(), Text(what(report))),
    ]
    if any(layer.tracked for layer in report.layers):
        parts.append(row(Text(), Text(assumptions(report), "dim")))
    if report.measurement is not None:
        parts.append(row(Text(), measured.summary(report.measurement, verbose)))
    serious = [f for f in report.findings if f.severity is not Severity.INFO]
    infos = [f for f in report.findings if f.severity is Severity.INFO]
    parts += finding_rows(serious, verbose)
    if infos and verbose:
        parts += finding_rows(infos, verbose)
    elif infos:
        blank = [Text()] if serious else []
        parts += [*blank, row(Text("notes", STYLES[Severity.INFO]), _notes(infos))]
    if verbose and report.layers:
        parts += [Text(), _table(report.layers)]
    if report.measurement is not None and (verbose or serious):
        parts += [Text(), measured.table(report.measurement, verbose)]
    if report.measurement is not None and verbose:
        parts += [Text(), measured.details(report.measurement)]
    return parts


def _commands(report: InspectReport) -> list[str]:
    """The commands that the fixes of errors and warnings name, each once."""
    serious = [f for f in report.findings if f.severity is not Severity.INFO]
    found = [match[1] for f in serious for match in _COMMAND.finditer(f.fix)]
    return [visible(command, None) for command in dict.fromkeys(found)]


def what(report: InspectReport) -> str:
    """19 BatchNorm layers, 688 channels; torch-legacy, key state_dict, prefix module."""
    kinds: dict[str, int] = {}
    for layer in report.layers:
        kinds[layer.kind.value] = kinds.get(layer.kind.value, 0) + 1
    layers = ", ".join(count(number, f"{kind} layer") for kind, number in kinds.items())
    checkpoint = report.checkpoint
    where = [checkpoint.container.value] if checkpoint else ["a module in memory"]
    if checkpoint and checkpoint.key:
        where.append(f"key {visible(checkpoint.key)}")
    if checkpoint and checkpoint.prefix:
        where.append(f"prefix {visible(checkpoint.prefix)}")
    channels = sum(layer.channels for layer in report.layers if layer.tracked)
    size = f", {count(channels, 'channel')}" if channels else ""
    return f"{layers or 'no normalisation layers'}{size}; {', '.join(where)}"


def assumptions(report: InspectReport) -> str:
    """Where eps and momentum come from."""
    eps, momentum = report.eps, report.momentum
    assert eps is not None
    assert momentum is not None
    if not eps.known and not momentum.known:
        return (
            f"eps {eps.value:g} and momentum {momentum.value:g} assumed: this file holds neither "
            "(--eps, --momentum)"
        )
    cumulative = all(layer.momentum.value is None for layer in report.layers if layer.tracked)
    return (
        f"eps {_setting(eps, '--eps')}, "
        f"momentum {'cumulative' if cumulative else _setting(momentum, '--momentum')}"
    )


def _setting(setting: Setting, option: str) -> str:
    if setting.value is None:
        return "differs between layers"
    origin = {
        "file": "from the file",
        "option": f"from {option}",
        "model": "from the model",
        "assumed": "assumed",
    }
    return f"{setting.value:g} {origin[setting.origin.value]}"


def finding_rows(findings: Sequence[Finding], verbose: bool) -> list[RenderableType]:
    """Findings by rule, a blank line before each."""
    return [part for group in _groups(findings) for part in (Text(), _finding(group, verbose))]


def _groups(findings: Sequence[Finding]) -> Iterator[list[Finding]]:
    """Findings of one rule and severity: 19 layers with one fault are one thing to read."""
    for _, group in groupby(findings, key=lambda f: (f.severity, f.rule)):
        yield list(group)


def _finding(group: list[Finding], verbose: bool) -> RenderableType:
    first = group[0]
    head = Text.assemble((f"{first.rule} {first.name}", "bold"))
    if len(group) > 1:
        head.append(f" in {len(group)} layers")
    lines: list[RenderableType] = [head]
    shown = group if verbose else group[:1]
    for finding in shown:
        text = Text()
        if finding.layer is not None:
            text.append(layer_name(finding.layer), "bold").append(": ")
        lines.append(text.append(visible(finding.message, None)))
    if len(group) > len(shown):
        lines.append(Text(f"likewise: {_layer_names(group[1:])}"))
    fixes = dict.fromkeys(_COMMAND.sub(_BELOW, finding.fix) for finding in group)
    lines += [Text.assemble(("fix: ", "green"), visible(fix, None)) for fix in fixes]
    return row(Text(first.severity.value, STYLES[first.severity]), Group(*lines))


def _notes(infos: Sequence[Finding]) -> Text:
    notes = []
    for group in _groups(infos):
        where = f" in {count(len(group), 'layer')}" if group[0].layer is not None else ""
        notes.append(f"{group[0].rule} {group[0].name}{where}")
    return Text("; ".join(notes) + " (--verbose explains)")


def _layer_names(findings: Sequence[Finding]) -> str:
    names = ", ".join(layer_name(finding.layer) for finding in findings[:_NAMED])
    more = len(findings) - _NAMED
    return f"{names} and {more} more" if more > 0 else names


def _table(layers: Sequence[NormLayer]) -> RenderableType:
    """Every layer, its channels' variances drawn over a log scale that all layers share."""
    scale = log_range([layer.var for layer in layers])
    caption = f"variances are drawn from 1e{scale[0]:g} to 1e{scale[1]:g}" if scale else None
    table = Table(box=None, pad_edge=False, header_style="bold", caption=caption)
    table.caption_justify = "left"
    table.add_column("layer", overflow="fold", min_width=12)
    table.add_column("kind", no_wrap=True)
    for title in ("channels", "batches", "mean", "variance"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("variances", no_wrap=True, min_width=BINS)
    for layer in layers:
        batches = "" if layer.batches is None else f"{layer.batches:,.10g}"
        table.add_row(
            Text(layer_name(layer.name)),
            layer.kind.value,
            f"{layer.channels:,}" if layer.channels else "-",
            batches,
            extent(layer.mean),
            extent(layer.var),
            "" if scale is None else histogram(layer.var, scale),
        )
    return table


def extent(array: Array | None) -> str:
    """The smallest and the largest of the numbers."""
    if array is None or not array.size:
        return "-"
    values = array.astype("float64")
    return f"{values.min():.2g}..{values.max():.2g}"
