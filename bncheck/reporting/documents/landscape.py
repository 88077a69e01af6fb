"""`bncheck landscape`: the rates that a snapshot stands, a row for each snapshot, pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from bncheck.core.words import count
from bncheck.reporting import heat
from bncheck.reporting.document import Detail, Document, Fact, Table
from bncheck.reporting.figures import Curve, Figure, Heatmap, Lines
from bncheck.reporting.visible import layer_name, visible
from bncheck.surveying.along import MULTIPLES
from bncheck.surveying.measure import Curvature, Spread, Surface
from bncheck.surveying.report import LandscapeReport

_BAR: Final = 16  # letters of a bar
_CURVES: Final = 8  # snapshots drawn one by one
#: Eval mode is called sharper than train mode from this factor on.
_SHARPER: Final = 1.5


def document(report: LandscapeReport, _path: str = "") -> Document:
    """One document for all snapshots."""
    return Document(
        "landscape",
        _what(report),
        "measured",
        None,
        tuple(map(Fact, sentences(report))),
        report.findings,
        tuple(_tables(report)),
        tuple(figures(report)),
        notes=report.notes,
        path=report.places[-1].path or "",
    )


def _what(report: LandscapeReport) -> str:
    labels = [place.label for place in report.places]
    shown = visible(labels[0] if len(labels) == 1 else f"{labels[0]} to {labels[-1]}", None)
    number = count(len(labels), "snapshot")
    batches = count(report.batches, "batch", "batches")
    return (
        f"{number}, {shown}; {batches} of {report.batch_size} samples, "
        f"steps of {MULTIPLES[0]:g} to {MULTIPLES[-1]:g} times {report.eta:g}"
    )


def sentences(report: LandscapeReport) -> list[str]:
    """The rates that the last snapshot stands, and what the numbers mean."""
    last = report.last
    lines = [_rates(report)]
    if report.normalised and math.isnan(last.eval.value.median):
        lines.append(
            "with running statistics the loss is not finite: `bncheck inspect` says what is wrong "
            "with them"
        )
    turned = last.cosine.median
    if not math.isnan(turned):
        lines.append(
            f"along one step the gradient turns to a cosine of {turned:.2f} and changes by "
            f"{_short(last.relative.median)} times its length"
        )
    if report.normalised and report.mode == "eval":
        lines.append("all but lambda is measured with running statistics (--mode eval)")
    return lines


def _rates(report: LandscapeReport) -> str:
    last = report.last
    train, frozen = last.train.rate, last.eval.rate
    where = "" if len(report.places) == 1 else f" at {visible(report.places[-1].label, None)}"
    if train is None:
        return f"the loss is not curved upwards in any direction{where}: no rate follows from it"
    guide = "2/lambda, beyond which plain SGD leaves a quadratic bowl: a guide, not a limit"
    text = f"stands rates up to about {_short(train)}"
    if not report.normalised:
        return f"{text}{where} ({guide})"
    text += " in training"
    if frozen is None:
        return f"{text}{where} ({guide})"
    ratio = train / frozen
    sharper = f"; with frozen statistics {_short(frozen)}"
    if ratio > _SHARPER:
        sharper += f", {_short(ratio)} times less"
    return f"{text}{sharper}{where} ({guide})"


def _tables(report: LandscapeReport) -> Iterator[Table]:
    low, high = _ends(report.surfaces)
    modes = " train | eval" if report.normalised else ""
    lambdas, rates = f"lambda{modes}", f"rate{modes}"
    columns = ("snapshot", "loss", "after a step", "cosine", "beta", lambdas, rates)
    rows = [
        tuple(_row(place.label, surface, low, high, report.normalised))
        for place, surface in zip(report.places, report.surfaces, strict=True)
    ]
    caption = (
        "Medians over the batches. cosine: the least between the gradients before and after a "
        "step; beta: the largest ||g' - g|| / (step ||g||); lambda: the largest eigenvalue of the "
        "Hessian; rate: 2 / lambda."
    )
    right = ("loss", "cosine", "beta")
    yield Table("Snapshots", columns, tuple(rows), right, caption)
    yield _steps_table(report)
    yield from _shift_table(report)


def _row(label: str, s: Surface, low: float, high: float, normalised: bool) -> Iterator[str]:
    curved = (s.train, s.eval) if normalised else (s.train,)
    yield label
    yield _short(s.start.median)
    yield _bar(s.low.median, s.high.median, low, high)
    yield "-" if math.isnan(s.cosine.median) else f"{s.cosine.median:.2f}"
    yield _short(s.beta.median)
    yield " | ".join(map(_curvature, curved))
    yield " | ".join("-" if c.rate is None else _short(c.rate) for c in curved)


def _steps_table(report: LandscapeReport) -> Table:
    """What the bars and cosines are made of."""
    rows = tuple(
        (
            place.label, _short(s.low.median), _short(s.high.median),
            _short(s.l2.median), _short(s.relative.median),
        )
        for place, s in zip(report.places, report.surfaces, strict=True)
    )  # fmt: skip
    caption = (
        "change: the largest ||g' - g||, and that over ||g||, between before and after a step."
    )
    columns = ("snapshot", "least loss", "largest loss", "change", "relative")
    return Table("Along one step", columns, rows, columns[1:], caption, Detail.VERBOSE)


def _curvature(found: Curvature) -> str:
    if math.isnan(found.value.median):
        return "-"
    return ("" if found.settled else "≥ ") + _short(found.value.median)


def _ends(surfaces: Sequence[Surface]) -> tuple[float, float]:
    """The axis of the bars: all losses, the wildest cut off at ten times the largest at rest."""
    rest = max(surface.start.median for surface in surfaces)
    highs = [min(surface.high.median, 10 * rest) for surface in surfaces]
    return min(surface.low.median for surface in surfaces), max(highs)


def _bar(low: float, high: float, start: float, end: float) -> str:
    """A line of letters, filled from the least to the largest loss."""
    wide = (end - start) or 1.0

    def place(value: float) -> int:
        return min(_BAR - 1, max(0, int((value - start) / wide * _BAR)))

    first, last = place(low), place(min(high, end))
    return "·" * first + "█" * (last - first + 1) + "·" * (_BAR - 1 - last)


def _shift_table(report: LandscapeReport) -> Iterator[Table]:
    last = report.last.shift
    if not last:
        return
    rows = tuple(
        (layer_name(s.layer), _short(s.l2), _short(s.relative), _short(s.cosine)) for s in last
    )
    caption = (
        "How the gradient of a layer changes because the layers before it take a step "
        "(Santurkar et al. 2018, definition 2.1), at the last snapshot. Lengths of two networks "
        "are not to be compared; relative changes and cosines are."
    )
    columns = ("layer", "l2", "relative", "cosine")
    yield Table("Internal covariate shift", columns, rows, columns[1:], caption, Detail.VERBOSE)


def figures(report: LandscapeReport) -> Iterator[Figure]:
    """Bands over the snapshots, the map of layers, and the loss along the gradient."""
    series = len(report.places) > 1
    ticks = tuple(place.label for place in report.places)
    if series:
        yield from _bands(report, ticks)
    if report.layers:
        yield _shift_map(report, ticks)
    yield _along(report, ticks)


def _bands(report: LandscapeReport, ticks: tuple[str, ...]) -> Iterator[Lines]:
    places = tuple(map(float, range(len(ticks))))
    surfaces = report.surfaces
    loss = Curve(
        "loss", places, _numbers(surfaces, lambda s: s.start.median),
        _numbers(surfaces, lambda s: s.low.median), _numbers(surfaces, lambda s: s.high.median),
    )  # fmt: skip
    steps = f"steps of {MULTIPLES[0]:g} to {MULTIPLES[-1]:g} times {report.eta:g}"
    yield Lines("Loss after one step", f"The band is the range over {steps} along the gradient.",
                "snapshot", "loss", (loss,), ticks)  # fmt: skip
    caption = "The least cosine between the gradients before and after a step; the band: batches."
    yield Lines("How the gradient turns", caption, "snapshot", "cosine",
                (_curve("cosine", places, surfaces, lambda s: s.cosine),), ticks)  # fmt: skip
    caption = "The largest change of the gradient, over the step's length; the band: batches."
    yield Lines("Effective smoothness", caption, "snapshot", "beta",
                (_curve("beta", places, surfaces, lambda s: s.beta),), ticks, log=True)  # fmt: skip
    curved = [_curve("train mode", places, surfaces, lambda s: s.train.value)]
    if report.normalised:
        curved.append(_curve("eval mode", places, surfaces, lambda s: s.eval.value, 1))
    caption = "The largest eigenvalue of the Hessian; 2 / lambda is a guide to the largest rate."
    yield Lines("Curvature", caption, "snapshot", "lambda", tuple(curved), ticks, log=True)


def _curve(
    name: str, places: tuple[float, ...], surfaces: Sequence[Surface],
    of: Callable[[Surface], Spread], group: int = 0,
) -> Curve:  # fmt: skip
    return Curve(
        name, places,
        _numbers(surfaces, lambda s: of(s).median),
        _numbers(surfaces, lambda s: of(s).low),
        _numbers(surfaces, lambda s: of(s).high),
        group,
    )  # fmt: skip


def _numbers(
    surfaces: Sequence[Surface], of: Callable[[Surface], float]
) -> tuple[float | None, ...]:
    return tuple(_known(of(surface)) for surface in surfaces)


def _known(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _shift_map(report: LandscapeReport, ticks: tuple[str, ...]) -> Heatmap:
    found = [{shift.layer: shift.relative for shift in s.shift} for s in report.surfaces]
    rows = tuple(name or "(root)" for name in report.layers)
    values = tuple(
        tuple(_known(by_layer.get(layer, math.nan)) for by_layer in found)
        for layer in report.layers
    )
    caption = "How much each layer's gradient changes because the layers before it take a step."
    return Heatmap(
        "Internal covariate shift", caption, rows, ticks, values, "change relative",
        heat.LEVELS[0], heat.LEVELS[-1], "the layer's own gradient",
    )  # fmt: skip


def _along(report: LandscapeReport, ticks: tuple[str, ...]) -> Lines:
    chosen = heat.chosen(len(ticks), _CURVES)
    steps = (0.0, *(float(f"{multiple * report.eta:.6g}") for multiple in MULTIPLES))
    curves = tuple(
        Curve(ticks[place], steps, tuple(map(_known, (s.start.median, *s.losses))), group=number)
        for number, place in enumerate(chosen)
        for s in [report.surfaces[place]]
    )
    return Lines("Loss along the gradient", "The median over the batches, at each step.",
                 "step", "loss", curves)  # fmt: skip


def _short(value: float) -> str:
    """Two or three digits, whatever the size."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "infinite"
    return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.1e}"
