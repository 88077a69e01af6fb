"""What `bncheck export` wrote and `bncheck compare` saw, for the person at the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from bncheck.core.findings import Severity
from bncheck.core.words import count
from bncheck.reporting.document import Table
from bncheck.reporting.layout import print_all, row
from bncheck.reporting.layout import table as grid
from bncheck.reporting.text.inspect import finding_rows
from bncheck.reporting.visible import visible
from bncheck.shipping.proof import LevelParity, Proof
from bncheck.shipping.report import CompareReport, ExportReport, Latency
from bncheck.shipping.sides import Port

_ROWS = 12  # node types without --verbose


def show_export(console: Console, path: str, report: ExportReport, *, verbose: bool) -> None:
    """Print the file, the proof, and the nodes that changed; with `verbose` all of them."""
    good = report.file is not None
    parts: list[RenderableType] = [
        row(_word("exported" if good else "STOPPED", good), Text(visible(path, None), "bold"))
    ]
    parts += [row(Text(), Text(visible(line, None))) for line in export_lines(report)]
    shown = [f for f in report.findings if verbose or f.severity is not Severity.INFO]
    parts += finding_rows(shown, verbose)
    for table in export_tables(report, every=verbose):
        parts += [Text(), grid(table)]
    print_all(console, parts)


def show_compare(console: Console, report: CompareReport) -> None:
    """Print the verdict and the figures."""
    word = _word("equal" if report.equal else "DIFFERS", report.equal)
    names = Text.assemble((visible(report.second, None), "bold"), " against ",
                          (visible(report.first, None), "bold"))  # fmt: skip
    parts: list[RenderableType] = [row(word, names)]
    parts += [row(Text(), Text(visible(line, None))) for line in compare_lines(report)]
    print_all(console, [*parts, Text(), grid(levels_table(report.proof))])


def _word(word: str, good: bool) -> Text:
    return Text(word, "bold green" if good else "bold red")


def export_lines(report: ExportReport) -> list[str]:
    """The sentences beneath the verdict."""
    lines = []
    if report.fold is not None:
        fold = report.fold
        total = len(fold.batchnorms)
        parts = [f"{fold.folded} of {count(total, 'BatchNorm')} folded"]
        forms = {decision.into for decision in fold.batchnorms if decision.status == "rewritten"}
        form = forms.pop()[0] if len(forms) == 1 else "calls of another kind"
        parts += [f"{fold.rewritten} rewritten, each as {form}"] if fold.rewritten else []
        lines.append(", ".join(parts) if total else "no BatchNorm in it")
    if report.after:
        nodes = count(sum(report.after.values()), "node")
        left = count(report.batchnorm_nodes or 0, "BatchNormalization")
        lines.append(f"{nodes}, {left} among them")
        lines.append(f"inputs: {_ports(report.inputs)}; outputs: {_ports(report.outputs)}")
    if report.proof is not None:
        lines.append(proof_line(report.proof))
    if report.file is None:
        lines.append("nothing was written" + _overriding(report))
    else:
        file = report.file
        beside = f", its data in {file.data}" if file.data else ""
        size = f"{file.bytes / 1024:,.0f} KiB, opset {file.opset}"
        lines.append(f"written {file.path}: {size}{beside}")
    return lines


def _overriding(report: ExportReport) -> str:
    """The way on, where only the findings on the statistics stopped it."""
    return "" if report.proof else "; --force exports it all the same"


def compare_lines(report: CompareReport) -> list[str]:
    """The sentences beneath the verdict."""
    lines = [proof_line(report.proof)]
    if not report.equal and report.proof.measured:
        place = report.proof.parts_at
        where = f"they part at {place}" if place else "they share no name at which they part"
        lines.append(where)
    return lines


def _ports(ports: Sequence[Port]) -> str:
    return ", ".join(f"{p.name} {p.dtype} [{', '.join(map(str, p.shape))}]" for p in ports)


def proof_line(proof: Proof) -> str:
    """The largest error of all ways to run it, and on what it was found."""
    if not proof.measured:
        return "parity: unknown, for nothing here can run it"
    sizes = sorted({batch for parity in proof.measured for batch in parity.batches})
    numbers = [str(size) for size in sizes]
    which = " and ".join([", ".join(numbers[:-1]), numbers[-1]] if len(numbers) > 1 else numbers)
    shares = [p.argmax_agreement for p in proof.measured if p.argmax_agreement is not None]
    share = f"; the same class is largest for {min(shares):.1%}" if shares else ""
    return (
        f"parity: {proof.worst:.2g} is the largest relative error of an output channel in batches "
        f"of {which}, against the original in float64 (tolerance {proof.tolerance:.0e}){share}"
    )


def export_tables(report: ExportReport, *, every: bool = True) -> Iterator[Table]:
    """Parity and latency by level, and the nodes before and after."""
    if report.proof is not None:
        yield levels_table(report.proof, report.latency)
    kinds = sorted({*report.before, *report.after}, key=lambda k: -report.before.get(k, 0))
    counts = [(kind, report.before.get(kind, 0), report.after.get(kind, 0)) for kind in kinds]
    shown = counts if every else [c for c in counts if c[1] != c[2]][:_ROWS]
    if shown:
        rows = tuple((kind, str(before), str(after)) for kind, before, after in shown)
        yield Table("Nodes", ("node", "before", "after"), rows)


def levels_table(proof: Proof, latency: Sequence[Latency] = ()) -> Table:
    """A row for each way to run it."""
    timed = {entry.level: entry for entry in latency}
    columns = ("run by", "relative error", *(("latency", "of unfolded") if latency else ()))
    rows = []
    for level in proof.levels:
        cells = [_level_name(level.level), _level_error(level)]
        if latency:
            entry = timed.get(level.level)
            cells += (
                ["-", "-"]
                if entry is None
                else [f"{entry.folded_ms:.3f} ms", f"{entry.ratio:.2f}x"]
            )
        rows.append(tuple(cells))
    return Table("Parity", columns, tuple(rows))


def _level_name(level: str) -> str:
    return {"torch": "torch", "reference": "float64 reference"}.get(level, f"onnxruntime {level}")


def _level_error(level: LevelParity) -> str:
    if level.parity is None:
        return f"cannot run it: {level.refused}"
    return f"{level.parity.max_relative_error:.2g}"
