"""`bncheck export`: what was written and how it was proven, or why nothing was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from bncheck.core.findings import Severity
from bncheck.core.words import count
from bncheck.folding.result import FoldReport
from bncheck.reporting.document import Detail, Document, Fact, Table
from bncheck.reporting.documents.fold import counted, decisions_table, moves
from bncheck.reporting.documents.parity import (
    errors,
    levels_table,
    on_the_way,
    sentence,
    steps_table,
)
from bncheck.reporting.figures import Figure
from bncheck.shipping.report import ExportReport
from bncheck.shipping.sides import Port

_ROWS: Final = 12  # node types without --verbose


def document(report: ExportReport, path: str) -> Document:
    """One export."""
    written = report.file is not None
    return Document(
        "export",
        path,
        "exported" if written else "stopped",
        None if written else Severity.ERROR,
        tuple(map(Fact, _facts(report))),
        report.findings,
        tuple(_tables(report)),
        tuple(_figures(report)),
        notes=report.notes,
        silenced=report.silenced,
    )


def _facts(report: ExportReport) -> Iterator[str]:
    if report.fold is not None:
        yield _folded(report.fold)
    if report.after:
        nodes = count(sum(report.after.values()), "node")
        left = count(report.batchnorm_nodes or 0, "BatchNormalization")
        yield f"{nodes}, {left} among them"
        yield f"inputs: {_ports(report.inputs)}; outputs: {_ports(report.outputs)}"
    if report.proof is not None:
        yield sentence(report.proof)
    if report.file is None:
        # --force is the way on where only the findings on the statistics stopped it.
        way_on = "" if report.proof else "; --force exports it all the same"
        yield f"nothing was written{way_on}"
    else:
        file = report.file
        beside = f", its data in {file.data}" if file.data else ""
        size = f"{file.bytes / 1024:,.0f} KiB, opset {file.opset}"
        yield f"written {file.path}: {size}{beside}"


def _folded(fold: FoldReport) -> str:
    if not fold.batchnorms:
        return "no BatchNorm in it"
    parts = [f"{counted(fold)} folded"]
    forms = {decision.into for decision in fold.batchnorms if decision.status == "rewritten"}
    form = forms.pop()[0] if len(forms) == 1 else "calls of another kind"
    parts += [f"{fold.rewritten} rewritten, each as {form}"] if fold.rewritten else []
    return ", ".join(parts)


def _ports(ports: Sequence[Port]) -> str:
    return ", ".join(f"{p.name} {p.dtype} [{', '.join(map(str, p.shape))}]" for p in ports)


def _figures(report: ExportReport) -> Iterator[Figure]:
    if report.proof is not None:
        yield from on_the_way(report.proof)
        yield from errors(report.proof)
    if report.fold is not None:
        yield from moves(report.fold)


def _tables(report: ExportReport) -> Iterator[Table]:
    """Parity and latency by level, the nodes before and after, what became of each BatchNorm."""
    if report.proof is not None:
        yield levels_table(report.proof, report.latency)
        yield from steps_table(report.proof)
    kinds = sorted({*report.before, *report.after}, key=lambda k: -report.before.get(k, 0))
    counts = [(kind, report.before.get(kind, 0), report.after.get(kind, 0)) for kind in kinds]
    if counts:
        changed = [place for place, (_, old, new) in enumerate(counts) if old != new][:_ROWS]
        rows = tuple((kind, str(before), str(after)) for kind, before, after in counts)
        columns = ("node", "before", "after")
        yield Table("Nodes", columns, rows, columns[1:], brief=tuple(changed))
    if report.fold is not None and report.fold.batchnorms:
        yield decisions_table(report.fold, Detail.VERBOSE)
