"""Run the comparison and write its page: `python -m sample_models.comparison [--out FOLDER]`.

Prints the protocol before the first run and the tables after the last; writes comparison.md, the
figures as SVG, and comparison.html with what drift and landscape say of two of the runs.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import bncheck
from bncheck.reporting import curves, html, markdown, text
from bncheck.reporting.document import Document, Pages
from bncheck.reporting.documents import drift as drift_document
from bncheck.reporting.documents import landscape as landscape_document
from bncheck.reporting.figures import Lines

from . import page
from .trials import BASE, GRID, NETWORKS, PROTOCOL, ROWS, SAMPLES, Trial, accuracies, seeded

PROCESSES = 2
LANDSCAPE_BATCHES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description="Train with BatchNorm and without, and compare.")
    parser.add_argument("--out", type=Path, default=SAMPLES.parent / "docs" / "comparison")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    print(f"protocol: {PROTOCOL}", flush=True)
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        runs = _run(pool, _rows_and_grid())
        runs |= _run(pool, [trial for trial in _at_best(runs) if trial not in runs])
    comparison = page.document(runs)
    told = [document for bn in (True, False) for document in _told(bn)]
    sys.stdout.write(text.render(Pages((comparison,))))
    (out / "comparison.md").write_text(markdown.render(Pages((comparison,))))
    (out / "comparison.html").write_text(html.render(Pages((comparison, *told))))
    for name, figure in _pictures(comparison, told):
        (out / f"{name}.svg").write_text(curves.drawn(figure))


def _run(pool: ProcessPoolExecutor, trials: Sequence[Trial]) -> dict[Trial, list[float]]:
    return dict(zip(trials, pool.map(accuracies, trials), strict=True))


def _rows_and_grid() -> list[Trial]:
    """Every row with every seed from both starts, and every network at every rate of the grid."""
    rows = [replace(t, he=he) for row in ROWS for he in (True, False) for t in seeded(row)]
    grid = [
        replace(network, he=he, rate=rate)
        for network in NETWORKS for he in (True, False) for rate in GRID
    ]  # fmt: skip
    return list(dict.fromkeys((*rows, *grid)))


def _at_best(runs: page.Runs) -> list[Trial]:
    """Every network at its best rate, with every seed."""
    networks = [replace(network, he=he) for he in (True, False) for network in NETWORKS]
    return [trial for network in networks for trial in seeded(page.best_rate(runs, network))]


def _told(bn: bool) -> Iterator[Document]:
    """What this tool says of one of the runs: how far its layers moved, and how smooth it was."""
    trial = Trial("", bn)
    name = "with BatchNorm" if bn else "without BatchNorm"
    model = f"sample_models.comparison.nets:{'normalised' if bn else 'plain'}"
    data = os.path.relpath(SAMPLES / "digits-train.npz")
    with tempfile.TemporaryDirectory() as folder:
        accuracies(trial, Path(folder))
        files = sorted(Path(folder).glob("*.pt"))
        moved = bncheck.drift(files, model, data, layers="all")
        yield replace(drift_document.document(moved), path="", model=name)
        smooth = bncheck.landscape(files, data, eta=BASE, model=model, batches=LANDSCAPE_BATCHES)
        yield replace(landscape_document.document(smooth), path="", model=name)


def _pictures(comparison: Document, told: Sequence[Document]) -> Iterator[tuple[str, Lines]]:
    """The figures that the documentation shows, by the names of their files."""
    names = ("accuracy-he", "accuracy-default", "contours")
    for name, figure in zip(names, comparison.figures, strict=True):
        assert isinstance(figure, Lines)
        yield name, figure
    for document, suffix in zip(told[1::2], ("bn", "plain"), strict=True):
        for figure in document.figures:
            if isinstance(figure, Lines) and figure.title in ("Loss after one step", "Curvature"):
                titled = replace(figure, title=f"{figure.title}, {document.model}")
                yield f"{figure.title.split()[0].lower()}-{suffix}", titled


if __name__ == "__main__":
    main()
