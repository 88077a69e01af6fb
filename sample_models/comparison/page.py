"""What the runs gave, as one document beside those of drift and landscape."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bncheck.reporting.document import Document, Fact, Table
from bncheck.reporting.figures import Curve, Lines

from . import features
from .trials import (
    BASE,
    EVERY,
    GRID,
    NETWORKS,
    PROTOCOL,
    ROWS,
    SEEDS,
    STEPS,
    Trial,
    seeded,
    steps_to_target,
)

Runs = Mapping[Trial, Sequence[float]]

PAPER = (
    "Ioffe & Szegedy trained an Inception on ImageNet, and with the higher rates they also dropped "
    "dropout, weakened L2, let the rate decay six times faster, removed local response "
    "normalisation, shuffled better and distorted less: their figure is not BatchNorm alone. Here "
    "nothing else is changed."
)


def document(runs: Runs) -> Document:
    """The figure, the tables, and what they rest on."""
    facts = (
        Fact(PROTOCOL, name="protocol"),
        Fact(PAPER, name="the paper"),
        Fact(_x30(runs), name="x5 and x30"),
    )
    return Document(
        "comparison", "BatchNorm against none, on real digits", "measured", None, facts,
        tables=(_table(runs, he=True), _table(runs, he=False), _best(runs), _features()),
        figures=(_curves(runs, he=True), _curves(runs, he=False), features.contours()),
    )  # fmt: skip


def _x30(runs: Runs) -> str:
    """The paper's figure says that x30 ends higher and x5 is quicker; this is what came here."""
    ends = {
        name: statistics.mean(runs[t][-1] for t in seeded(_row(name)))
        for name in ("BN x5", "BN x30")
    }
    quick = {name: _median(runs, _row(name)) for name in ends}
    return (
        "; ".join(
            f"{name}: {quick[name]} steps to 90 %, {ends[name]:.3f} at step {STEPS}"
            for name in ends
        )
        + f" (median and mean of {len(SEEDS)} seeds, He initialisation)"
    )


def _row(name: str) -> Trial:
    return next(trial for trial in ROWS if trial.name == name)


def _words(runs: Runs, trial: Trial) -> str:
    """Steps to 90 % of every seed."""
    found = [steps_to_target(list(runs[t])) for t in seeded(trial)]
    return ", ".join("never" if steps is None else str(steps) for steps in found)


def _median(runs: Runs, trial: Trial) -> str:
    found = [steps_to_target(list(runs[t])) for t in seeded(trial)]
    middle = sorted(found, key=lambda steps: STEPS + 1 if steps is None else steps)[len(found) // 2]
    return "never" if middle is None else str(middle)


def _ends(runs: Runs, trial: Trial) -> str:
    return f"{statistics.mean(runs[t][-1] for t in seeded(trial)):.3f}"


def _table(runs: Runs, he: bool) -> Table:
    rows = tuple(
        (trial.name, f"{trial.rate:g}", _words(runs, t), _median(runs, t), _ends(runs, t))
        for trial in ROWS
        for t in [replace(trial, he=he)]
    )
    start = "He initialisation" if he else "torch's default initialisation"
    columns = ("network", "rate", "steps to 90 %, by seed", "median", f"accuracy at {STEPS}")
    caption = f"From {start}; {BASE:g} is the base rate."
    return Table(f"Steps to 90 %, {start}", columns, rows, columns[3:], caption)


def best_rate(runs: Runs, network: Trial) -> Trial:
    """The rate of the grid with the fewest steps to 90 % of seed 0; then the highest accuracy."""

    def worth(trial: Trial) -> tuple[int, float]:
        curve = list(runs[trial])
        steps = steps_to_target(curve)
        return (STEPS + 1 if steps is None else steps, -curve[-1])

    return min((replace(network, rate=rate) for rate in GRID), key=worth)


def _best(runs: Runs) -> Table:
    rows = []
    for he in (True, False):
        for network in NETWORKS:
            best = best_rate(runs, replace(network, he=he))
            start = "He" if he else "default"
            rows.append(
                (network.name, start, f"{best.rate:g}", _words(runs, best), _ends(runs, best))
            )
    caption = f"Chosen with seed 0 among {', '.join(f'{rate:g}' for rate in GRID)}."
    columns = ("network", "start", "best rate", "steps to 90 %, by seed", f"accuracy at {STEPS}")
    return Table("Every network at its own best rate", columns, tuple(rows), columns[4:], caption)


def _features() -> Table:
    rows = tuple(
        (
            name,
            f"{features.condition(features.two_features(x)):.3g}",
            f"{features.condition(x):.3g}",
        )
        for name, x in features.prepared().items()
    )
    columns = ("features", f"{features.TWO[0]} and {features.TWO[1]}", "all thirteen")
    caption = "Condition number of the error surface of a linear model with a bias, on wine."
    return Table("Feature normalisation", columns, rows, columns[1:], caption)


def _curves(runs: Runs, he: bool) -> Lines:
    curves = []
    for group, trial in enumerate(ROWS):
        for t in seeded(replace(trial, he=he)):
            steps = tuple(float(place * EVERY) for place in range(len(runs[t])))
            curves.append(Curve(trial.name, steps, tuple(runs[t]), group=group))
    start = "He initialisation" if he else "torch's default initialisation"
    return Lines(
        f"Test accuracy, {start}", f"Every line is a training; {len(SEEDS)} seeds each.",
        "step", "accuracy", tuple(curves),
    )  # fmt: skip
