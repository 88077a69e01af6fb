"""The tables of docs/breadth.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Row = dict[str, Any]
HALVES = ((False, "looked at while code changed"), (True, "set aside before"))


def table(rows: list[Row]) -> str:
    """Markdown: both halves in figures, then a line for each model, or file that has norms."""
    models = {r["model"]: r for r in rows if "model" in r and not _unbuilt(r)}
    files = {r["file"]: r for r in rows if "file" in r}
    lines: list[str] = []
    if models:
        lines += [*_figures(list(models.values())), "", *_models(list(models.values()))]
    if files:
        lines += ["", *_file_figures(list(files.values())), "", *_files(list(files.values()))]
    return "\n".join(lines) + "\n"


def _unbuilt(row: Row) -> bool:
    """Whether its library could not make it, or it took no input: nothing of ours was asked."""
    return "norms" not in row and "total" not in row


def _figures(rows: list[Row]) -> Iterator[str]:
    yield "| | " + " | ".join(words for _, words in HALVES) + " |"
    yield "|---|---|---|"
    halves = [[r for r in rows if r["aside"] is aside] for aside, _ in HALVES]
    counts: dict[str, Callable[[list[Row]], Any]] = {
        "models": len,
        "out of time or memory at some stage": lambda rs: _count(rs, "died"),
        "folded": lambda rs: _count(rs, "folded"),
        "fold refused": lambda rs: _count(rs, "fold_refused"),
        "crashed": lambda rs: _count(rs, "fold_crashed", "double_crashed", "export_crashed"),
        "norms": lambda rs: _sum(rs, "total"),
        "norms folded": lambda rs: _sum(rs, "folded"),
        "largest error in float64": lambda rs: _error(_most(rs, "error64")),
        "models that torch.fx fuses": lambda rs: _count(rs, "fx_left"),
        "BatchNorms that it leaves there": lambda rs: _sum(rs, "fx_left"),
        "BatchNorms of models that OnnxSlim was given": lambda rs: _sum(rs, "slim_before"),
        "BatchNorms that it leaves": lambda rs: _sum(rs, "slim_left"),
        "exported": lambda rs: _count(rs, "export_left"),
        "export refused": lambda rs: _count(rs, "export_refused"),
        "BatchNorms left in exports": lambda rs: _sum(rs, "export_left"),
    }
    for words, count in counts.items():
        yield f"| {words} | " + " | ".join(str(count(half)) for half in halves) + " |"


def _models(rows: list[Row]) -> Iterator[str]:
    yield (
        "| model | norms | folded | kept, by reason | float32 | float64 | torch.fx leaves "
        "| OnnxSlim leaves | export leaves | s |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda r: (r["model"].split()[0], r["model"].lower())):
        note = [word for word, is_so in _notes(row) if is_so]
        kept = "; ".join(f"{n} {reason}" for reason, n in row.get("kept", [])[:2])
        cells = [
            row["model"] + (" *" if row["aside"] else ""),
            f"{row.get('total', '')}" + (f" ({', '.join(note)})" if note else ""),
            f"{row.get('folded', '')}",
            _cut(kept or row.get("fold_refused", "")),
            _error(row.get("error")),
            _error(row.get("error64")),
            _left(row, "fx"),
            _left(row, "slim"),
            _left(row, "export"),
            f"{row['fold_seconds']:.0f}" if "fold_seconds" in row else "",
        ]
        yield f"| {' | '.join(cells)} |"


def _notes(row: Row) -> Iterator[tuple[str, bool]]:
    yield "all norms", row.get("norms") == "all"
    yield f"{row.get('parts')} parts", bool(row.get("parts"))


def _left(row: Row, stage: str) -> str:
    if f"{stage}_left" in row:
        return str(row[f"{stage}_left"])
    refused = row.get(f"{stage}_refused")
    if refused and stage == "export":
        return _cut(f"refused: {refused}")
    return "cannot" if f"{stage}_crashed" in row or refused else ""


def _file_figures(rows: list[Row]) -> Iterator[str]:
    yield "| | " + " | ".join(words for _, words in HALVES) + " |"
    yield "|---|---|---|"
    halves = [[r for r in rows if r["aside"] is aside] for aside, _ in HALVES]
    counts: dict[str, Callable[[list[Row]], Any]] = {
        "files": len,
        "exit 0": lambda rs: sum(r.get("code") == 0 for r in rs),
        "exit 2: no weights in it": lambda rs: sum(_without_weights(r) for r in rs),
        "exit 2: other": lambda rs: sum(r.get("code") == 2 and not _without_weights(r) for r in rs),
        "crashed, or out of time or memory": lambda rs: _count(rs, "crashed", "died"),
        "norms": lambda rs: sum(r.get("summary", {}).get("total", 0) for r in rs),
        "norms folded": lambda rs: sum(r.get("summary", {}).get("folded", 0) for r in rs),
        "seconds, the longest": lambda rs: f"{_most(rs, 'seconds') or 0:.1f}",
        "MB, the most": lambda rs: _most(rs, "megabytes"),
    }
    for words, count in counts.items():
        yield f"| {words} | " + " | ".join(str(count(half)) for half in halves) + " |"


def _without_weights(row: Row) -> bool:
    return row.get("code") == 2 and "holds no tensors" in row.get("err", "")


def _files(rows: list[Row]) -> Iterator[str]:
    yield "| file | norms | folded | kept, by reason | difference in onnxruntime | s | MB |"
    yield "|---|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda r: r["file"]):
        summary = row.get("summary", {})
        other = row.get("code") == 2 and not _without_weights(row)
        if not summary.get("total") and not other:
            continue
        kept = "; ".join(f"{n} {reason}" for reason, n in row.get("kept", [])[:2])
        said = row.get("err", "").strip().rpartition(".onnx: ")[2] if other else ""
        cells = [
            row["file"].replace("__", "/")[-60:] + (" *" if row["aside"] else ""),
            str(summary.get("total", "")),
            str(summary.get("folded", "")),
            _cut(kept or said),
            _error(row.get("error")) if isinstance(row.get("error"), float) else "",
            f"{row.get('seconds', 0):.1f}",
            str(row.get("megabytes", "")),
        ]
        yield f"| {' | '.join(cells)} |"


def _count(rows: list[Row], *keys: str) -> int:
    return sum(any(key in row for key in keys) for row in rows)


def _sum(rows: list[Row], key: str) -> int:
    return sum(row.get(key, 0) for row in rows)


def _most(rows: list[Row], key: str) -> Any:
    return max((row[key] for row in rows if row.get(key) is not None), default=None)


def _error(number: float | None) -> str:
    return "" if number is None else f"{number:.0e}"


def _cut(words: str) -> str:
    plain = " ".join(words.replace("|", "/").split())
    return plain if len(plain) <= 160 else f"{plain[:159]}…"
