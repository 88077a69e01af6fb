"""`bncheck inspect`: verdict, what the file holds, findings, the table of its layers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from bncheck._version import __version__
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Severity, Verdict
from bncheck.core.words import as_argument, count
from bncheck.inspecting.report import InspectReport
from bncheck.layers.norm_layer import Setting
from bncheck.reading.checkpoint import part_name
from bncheck.reporting.document import Detail, Document, Fact, Pages, Rows, Table, standing_of
from bncheck.reporting.formats import Said
from bncheck.reporting.spark import histogram, log_range
from bncheck.reporting.visible import visible

if TYPE_CHECKING:
    from bncheck.layers.norm_layer import NormLayer
    from bncheck.reading.tensors import Array
    from bncheck.reporting.figures import Figure

_COMMAND: Final = re.compile(r"run `((?:PYTHONPATH=\S+ )?bncheck recalibrate .+?)`(?=[\s;,.:)]|$)")
_NOT_CHECKED: Final = (
    "not checked: whether the statistics fit what the layers see (--model and --data do)"
)
_ONLY_NUMBERS: Final = "no running statistics: only the numbers of these layers were checked"
_ORIGINS: Final = {
    "file": "from the file",
    "option": "from {option}",
    "model": "from the model",
    "assumed": "assumed",
}


def said(
    reports: Sequence[InspectReport],
    errors: Sequence[BncheckError] = (),
    several: bool = False,
    notes: Sequence[tuple[str, ...]] = (),
) -> Said:
    """Reports of one or, with `several`, of many checkpoints, and those that cannot be read.

    `notes` are those of each report: what the reader chose and did not find.
    """

    def pages() -> Pages:
        noted = zip(reports, notes or [()] * len(reports), strict=True)
        documents = (replace(document(report), notes=of_it) for report, of_it in noted)
        return Pages(tuple(documents), errors, _last(reports))

    def data() -> dict[str, object]:
        if not several:
            return reports[0].to_dict()
        return {
            "schema": "bncheck.inspect/1",
            "bncheck": __version__,
            "reports": [report.to_dict() for report in reports],
            "errors": [error.to_dict() for error in errors],
        }

    return Said(data, pages)


def _last(reports: Sequence[InspectReport]) -> str:
    if len(reports) < 2:
        return ""
    ranked = sorted(reports, key=lambda report: list(Verdict).index(report.summary.verdict))
    words = Counter(report.word for report in ranked)
    counts = ", ".join(f"{number} {word}" for word, number in words.items())
    return f"{count(len(reports), 'checkpoint')}: {counts}"


def document(report: InspectReport, _path: str = "") -> Document:
    """One checkpoint, or module in memory."""
    facts = [Fact(_what(report)), *_beside(report)]
    details: tuple[Fact, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables = [_layers(report.layers)] if report.layers else []
    tracked = {layer.name for layer in report.layers if layer.tracked}
    if tracked:
        facts.append(Fact(_assumptions(report), quiet=True))
    elif report.layers:
        facts.append(Fact(_ONLY_NUMBERS, quiet=True))
    standing = standing_of(report.findings)
    if known := report.summary.known:
        facts.append(Fact(f"{count(known, 'known finding')} left out: in the baseline"))
    if report.measurement is None and standing is None and tracked:
        facts.append(Fact(_NOT_CHECKED, quiet=True))
    if report.measurement is not None:
        from bncheck.reporting.documents import measured, shapes

        facts += measured.facts(report.measurement, report.findings)
        reasons = {n: why for n, why in report.unmeasured().items() if n in tracked}
        facts += measured.unmeasured(reasons)
        shown = Detail.VERBOSE if standing is None else Detail.ALWAYS
        tables.append(measured.table(report.measurement, shown))
        tables += shapes.tables(report.measurement)
        details = tuple(measured.details(report.measurement))
        figures = tuple(measured.figures(report.measurement))
    return Document(
        "inspect", report.subject, report.word, standing, tuple(facts),
        report.findings, tuple(tables), figures, details, next_steps=_commands(report),
        silenced=report.silenced,
    )  # fmt: skip


def _beside(report: InspectReport) -> Iterator[Fact]:
    """Parts of the file that are broken, of which the verdict does not speak."""
    for part in report.broken_beside:
        name, way = visible(part_name(part.key)), visible(as_argument(part.key))
        way_on = f": --key {way} reports on it" if part.key else ""
        yield Fact(
            f"the file also holds {name}, which is broken ({part.cause}), and nothing says which "
            f"is used{way_on}",
            tone=Severity.ERROR,
        )


def _commands(report: InspectReport) -> tuple[str, ...]:
    """The commands that the fixes of errors and warnings name, each once."""
    serious = [f for f in report.findings if f.severity is not Severity.INFO]
    found = [match[1] for f in serious for match in _COMMAND.finditer(f.fix)]
    return tuple(dict.fromkeys(found))


def _what(report: InspectReport) -> str:
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


def _assumptions(report: InspectReport) -> str:
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
    return f"{setting.value:g} {_ORIGINS[setting.origin.value].format(option=option)}"


def _layers(layers: Sequence[NormLayer]) -> Table:
    """Every layer, its channels' variances drawn over a log scale that all layers share."""
    scale = log_range([layer.var for layer in layers])

    def row(layer: NormLayer) -> tuple[str, ...]:
        return (
            layer.name or "(root)",
            layer.kind.value,
            f"{layer.channels:,}" if layer.channels else "-",
            "" if layer.batches is None else f"{layer.batches:,.10g}",
            _extent(layer.mean),
            _extent(layer.var),
            "" if scale is None else histogram(layer.var, scale),
        )

    rows = Rows(layers, row)
    right = ("channels", "batches", "mean", "variance")
    caption = f"variances are plotted from 1e{scale[0]:g} to 1e{scale[1]:g}" if scale else ""
    columns = ("layer", "kind", *right, "variances")
    return Table("Layers", columns, rows, right, caption, Detail.VERBOSE)


def _extent(array: Array | None) -> str:
    """The smallest and the largest of the numbers."""
    if array is None or not array.size:
        return "-"
    values = array.astype("float64")
    return f"{values.min():.2g}..{values.max():.2g}"
