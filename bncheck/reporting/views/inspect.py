"""`bncheck inspect` in every format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bncheck._version import __version__
from bncheck.core.errors import BncheckError
from bncheck.inspecting.report import InspectReport
from bncheck.reporting.document import Document, Table, standing_of

if TYPE_CHECKING:
    from rich.console import Console

    from bncheck.layers.norm_layer import NormLayer
    from bncheck.measuring.measurement import Measurement


@dataclass(frozen=True)
class InspectView:
    """Reports of one or, with `several`, of many checkpoints, and those that cannot be read."""

    reports: Sequence[InspectReport]
    errors: Sequence[BncheckError] = ()
    several: bool = False

    def show(self, console: Console, *, verbose: bool) -> None:
        """Print the verdict first, then what was found."""
        from bncheck.reporting.text.inspect import show

        show(console, self.reports, verbose)

    def data(self) -> dict[str, object]:
        """One report as itself; of several inputs a list, with what could not be read."""
        if not self.several:
            return self.reports[0].to_dict()
        return {
            "schema": "bncheck.inspect/1",
            "bncheck": __version__,
            "reports": [report.to_dict() for report in self.reports],
            "errors": [error.to_dict() for error in self.errors],
        }

    def documents(self) -> list[Document]:
        """A document for each checkpoint."""
        return [_document(report) for report in self.reports]


def _document(report: InspectReport) -> Document:
    from bncheck.reporting.text.inspect import assumptions, what
    from bncheck.reporting.text.measured import summary

    lines = [what(report)]
    if any(layer.tracked for layer in report.layers):
        lines.append(assumptions(report))
    tables = [_layers(report.layers)] if report.layers else []
    if report.measurement is not None:
        lines.append(summary(report.measurement, verbose=True).plain)
        tables.append(_measured(report.measurement))
    return Document(
        "inspect",
        report.subject,
        report.summary.verdict.value,
        standing_of(report.findings),
        tuple(lines),
        report.findings,
        tuple(tables),
    )


def _layers(layers: Sequence[NormLayer]) -> Table:
    from bncheck.reporting.text.inspect import extent

    rows = []
    for layer in layers:
        batches = "" if layer.batches is None else f"{layer.batches:,.10g}"
        channels = f"{layer.channels:,}" if layer.channels else "-"
        ranges = (extent(layer.mean), extent(layer.var))
        rows.append((layer.name or "(root)", layer.kind.value, channels, batches, *ranges))
    columns = ("layer", "kind", "channels", "batches", "mean", "variance")
    return Table("Layers", columns, tuple(rows))


def _measured(measurement: Measurement) -> Table:
    rows = []
    for m in measurement.layers:
        held, alone = m.eval, m.batch
        rows.append(
            (
                m.layer.name or "(root)",
                f"{held.w2:.3f}" if held else "not reached",
                f"{alone.w2:.3f}" if alone else "",
            )
        )
    return Table("Measured", ("layer", "W2 in eval", "W2 by itself"), tuple(rows))
