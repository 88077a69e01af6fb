"""`bncheck watch`: where a training is, and how far its running statistics are from its batches."""

from __future__ import annotations

import time
from typing import Final

from bncheck.core.thresholds import DEFAULT
from bncheck.core.words import count
from bncheck.recording.watching import WatchReport
from bncheck.reporting import heat
from bncheck.reporting.document import Detail, Document, Fact, Table, standing_of
from bncheck.reporting.figures import Heatmap, Ranking
from bncheck.reporting.prose import W2_IS
from bncheck.reporting.visible import layer_name

_MINUTE: Final = 60.0


def document(report: WatchReport, _path: str = "") -> Document:
    """One document for the record as it stands."""
    facts = [Fact(_where(report)), Fact(_worst(report))]
    figures = (_picture(report),) if report.layers else ()
    return Document(
        "watch",
        str(report.record.folder) + (f" ({report.series})" if report.series else ""),
        report.verdict,
        standing_of(report.findings),
        tuple(fact for fact in facts if fact.text),
        report.findings,
        (_table(report),) if report.layers else (),
        figures,
        silenced=report.silenced,
    )


def _where(report: WatchReport) -> str:
    """Step 12,300, epoch 3; loss 0.52, learning rate 0.1; 124 snapshots, the last 12 s ago."""
    last = report.last
    epoch = "" if last.epoch is None else f", epoch {last.epoch:,}"
    numbers = [
        f"{name} {value:.4g}"
        for name, value in (("loss", last.loss), ("learning rate", last.lr))
        if value is not None
    ]
    told = [f"step {last.step:,}{epoch}", ", ".join(numbers)]
    told.append(count(len(report.record.entries), "snapshot") + _ago(last.time))
    return "; ".join(filter(None, told))


def _ago(when: float | None) -> str:
    if when is None:
        return ""
    seconds = max(0.0, time.time() - when)
    if seconds < 2 * _MINUTE:
        return f", the last {seconds:.0f} s ago"
    if seconds < 120 * _MINUTE:
        return f", the last {seconds / _MINUTE:.0f} min ago"
    return f", the last {seconds / _MINUTE / 60:,.0f} h ago"


def _worst(report: WatchReport) -> str:
    now = [(row[-1], name) for row, name in zip(report.w2, report.layers, strict=True)]
    known = [(w2, name) for w2, name in now if w2 is not None]
    if not known:
        return ""
    w2, name = max(known)
    return (
        f"running statistics are W2 {w2:.2f} from the batch at most ({layer_name(name)} at "
        f"{_label(report, -1)}), less the noise of both"
    )


def _label(report: WatchReport, place: int) -> str:
    return f"step {report.snapshots[place].step or 0:,}"


def _furthest(row: tuple[float | None, ...]) -> float:
    return max((w2 for w2 in row if w2 is not None), default=0.0)


def _picture(report: WatchReport) -> Heatmap:
    names = tuple(name or "(root)" for name in report.layers)
    order = sorted(range(len(names)), key=lambda row: -_furthest(report.w2[row]))
    labels = tuple(_label(report, place) for place in range(len(report.snapshots)))
    marks = ((DEFAULT.w2_warning, "warning"), (DEFAULT.w2_error, "error"))
    furthest = tuple(f"{_furthest(row):.2f}" for row in report.w2)
    now = tuple("-" if w2 is None else f"{w2:.2f}" for w2 in report.now)
    return Heatmap(
        "How far the running statistics were from the batch",
        "W2 at recorded steps, less the noise of both.",
        names, labels, report.w2, "W2", heat.LEVELS[0], heat.LEVELS[-1], "the batch",
        marks=marks, beside=(("furthest", furthest), ("now", now)),
        ranking=Ranking(tuple(order), "furthest from the batch", "nearer to the batch"),
    )  # fmt: skip


def _table(report: WatchReport) -> Table:
    rows = tuple(
        (name or "(root)", "-" if now is None else f"{now:.3f}", f"{_furthest(row):.3f}")
        for name, row, now in zip(report.layers, report.w2, report.now, strict=True)
    )
    columns = ("layer", "W2 now", "W2 furthest")
    return Table("Layers", columns, rows, columns[1:], W2_IS, detail=Detail.NEVER)
