"""What `bncheck inspect` says of a measurement."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from bncheck.core.findings import Finding, Severity, cause_of
from bncheck.core.words import count, percent
from bncheck.measuring.measurement import NOT_REACHED
from bncheck.reporting.document import Detail, Fact, Table
from bncheck.reporting.documents.clouds import clouds
from bncheck.reporting.documents.shapes import said_of
from bncheck.reporting.figures import Bar, Bars, Columns, Figure
from bncheck.reporting.prose import W2_IS
from bncheck.reporting.visible import layer_name, visible

if TYPE_CHECKING:
    from bncheck.core.thresholds import Thresholds
    from bncheck.measuring.features import InputFeatures
    from bncheck.measuring.measurement import MeasuredLayer, Measurement
    from bncheck.measuring.results import Comparison

_BAR: Final = 12
#: Layers shown without --verbose.
_ROWS: Final = 10
#: Names of layers in a line.
_NAMES: Final = 8
_SIZES: Final = (1, 4, 16, 64, 256, 1024)

#: What standardising must gain for the input features to be shown unasked.
_WORTH_SAYING: Final = 100
#: Features that are drawn.
_BARS: Final = 16


def facts(measurement: Measurement, findings: Sequence[Finding] = ()) -> Iterator[Fact]:
    """How much was measured, the one number, and the results side by side."""
    text = f"measured on {count(measurement.samples, 'sample')}"
    if measurement.available and measurement.available > measurement.samples:
        text += f" of {measurement.available:,}"
    worst = measurement.worst
    if worst is None:
        yield Fact(f"{text}: no layer was reached")
        return
    limits = measurement.thresholds
    tone, harmless = limits.severity(measurement.w2), _harmless(measurement, findings)
    yield Fact(
        f"{text}: largest W2 {limits.written(measurement.w2)} at {layer_name(worst.layer.name)} "
        f"(warning from {limits.w2_warning:.2f}, error from {limits.w2_error:.2f}){harmless}",
        tone=None if harmless else tone,
    )
    yield Fact(W2_IS, quiet=True)
    if measurement.comparison is not None:
        of = of_samples(measurement.comparison, measurement.samples)
        yield from _results(measurement.comparison, of)
    if measurement.samples < 256:
        yield Fact("fewer than 256 samples: a warning may be due to chance", quiet=True)


def _harmless(measurement: Measurement, findings: Sequence[Finding]) -> str:
    """Why a W2 beyond the limits is no more than a note."""
    beyond = measurement.thresholds.severity(measurement.w2) is not None
    if not beyond or measurement.comparison is None or cause_of(findings) is not None:
        return ""
    notes = dict.fromkeys(f.rule for f in findings if f.rule.startswith("BN2"))
    return f"; the results show no harm ({', '.join(notes)})" if notes else ""


def unmeasured(reasons: Mapping[str, str]) -> Iterator[Fact]:
    """The layers that were not measured, by the reason."""
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, why in reasons.items() if why == reason]
        shown = ", ".join(layer_name(name) for name in names[:_NAMES])
        more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        yield Fact(f"not measured: {shown}{more} ({reason})")


def of_samples(c: Comparison, measured: int) -> str:
    """Of how many samples results are, where that is not all of them."""
    return f" (of the first {c.samples:,} samples)" if c.samples < measured else ""


def _results(c: Comparison, of: str) -> Iterator[Fact]:
    """Accuracy 0.561 with running statistics, 0.994 with measured, 0.993 in batches of 60."""
    if c.metric is not None and c.before is not None:
        columns = [f"{c.before:.4f} with running statistics"]
        columns += [] if c.after is None else [f"{c.after:.4f} with measured"]
        columns += [] if c.batch is None else [f"{c.batch:.4f} in batches of {c.batch_size}"]
        line = f"{c.metric} {', '.join(columns)}{of}"
        yield Fact(line, detail=Detail.VERBOSE if c.after is None else Detail.ALWAYS)
    rest = side_by_side(replace(c, metric=None), "with the running statistics", "with measured")
    if rest:
        yield Fact(rest, detail=Detail.VERBOSE)


def side_by_side(c: Comparison, before: str, after: str) -> str:
    """Accuracy 0.561 before, 0.994 after; 43.1 % of predictions change."""
    parts = []
    if c.metric is not None and c.before is not None and c.after is not None:
        parts.append(f"{c.metric} {c.before:.4f} {before}, {c.after:.4f} {after}")
    if c.loss is not None:
        parts.append(f"loss {c.loss[0]:.4f} {before}, {c.loss[1]:.4f} {after}")
    if c.flips is not None:
        parts.append(f"{percent(c.flips)} of predictions change")
    elif c.output_change is not None:
        parts.append(f"outputs change by {percent(c.output_change)} (RMS)")
    return "; ".join(parts)


def table(measurement: Measurement, detail: Detail) -> Table:
    """W2 of the layers in both cascades, in the order of execution."""
    layers = measurement.layers
    brief = worst_places([_w2(m) for m in layers], _ROWS)
    limits = measurement.thresholds
    columns = ("layer", "W2 in eval", "", "by itself", "mean off by", "variance is")
    rows, tones = zip(*(_row(m, limits) for m in layers), strict=True) if layers else ((), ())
    return Table(
        "Measured", columns, rows, columns[1:2] + columns[3:], detail=detail, brief=brief,
        rest=f"the {len(brief or ())} of {len(layers)} layers that deviate most (--verbose: all)",
        tones=tones,
    )  # fmt: skip


def worst_places(values: Sequence[float], most: int) -> tuple[int, ...] | None:
    """The places of the largest, in their order, as many as a screen has room for; None: all."""
    if len(values) <= most:
        return None
    return tuple(sorted(sorted(range(len(values)), key=lambda place: -values[place])[:most]))


def _row(
    m: MeasuredLayer, limits: Thresholds
) -> tuple[tuple[str, ...], tuple[Severity | None, ...]]:
    name = m.layer.name or "(root)"
    if m.eval is None:
        return (name, "-", NOT_REACHED, "", "", ""), (None,) * 6
    alone = m.batch or m.eval
    mean = float((alone.d**2).mean()) ** 0.5
    held = limits.severity(m.eval.w2)
    by_itself = None if m.batch is None else limits.severity(m.batch.w2)
    cells = (
        name,
        f"{m.eval.w2:.3f}",
        _bar(limits, m.eval.w2),
        "" if m.batch is None else f"{m.batch.w2:.3f}",
        f"{mean:.2f} sd",
        f"{_times(math.exp(alone.signed))} x seen",
    )
    return cells, (None, held, held, by_itself, None, None)


def _times(ratio: float) -> str:
    """1.09, but 6.5e+04 and 1.5e-05: neither wide nor rounded to 0."""
    return f"{ratio:.2f}" if 0.01 <= ratio < 1000 else f"{ratio:.1e}"


def _w2(measured: MeasuredLayer) -> float:
    return measured.eval.w2 if measured.eval is not None else 0.0


def _bar(limits: Thresholds, w2: float) -> str:
    """Full at twice an error."""
    filled = min(_BAR, round(w2 / (2 * limits.w2_error) * _BAR))
    return "█" * filled + "·" * (_BAR - filled)


def details(measurement: Measurement) -> Iterator[Fact]:
    """Batch size advice, the scales of the input features, and the shapes of distributions."""
    noise = measurement.batch_noise()
    limit = measurement.thresholds.w2_warning
    sizes = ", ".join(f"{noise[size]:.2f} at {size}" for size in _SIZES)
    yield Fact(
        f"statistics of a batch are noise of W2 {sizes}; below {limit:.2f} from "
        f"{measurement.smallest_batch(limit)} on",
        "batch size",
        detail=Detail.VERBOSE,
    )
    if measurement.features is not None:
        c = measurement.features.conditions
        shown = c is not None and c.gain >= _WORTH_SAYING
        detail = Detail.ALWAYS if shown else Detail.VERBOSE
        yield Fact(_features(measurement.features), "input", detail=detail)
    shapes = {m.layer.name: m.shape for m in measurement.layers if m.shape is not None}
    if shapes:
        yield Fact(said_of(shapes), "histograms")


def figures(measurement: Measurement) -> Iterator[Figure]:
    """W2 over the layers, what each stores against what it sees, the scales of the inputs."""
    if measurement.reached:
        yield _columns(measurement)
        yield clouds(measurement)
    yield from _scales(measurement)


def _columns(measurement: Measurement) -> Columns:
    limits = measurement.thresholds
    reached = measurement.reached
    return Columns(
        "How wrong each layer is",
        "W2 in the eval cascade, in the order of execution: the typical error of a layer's "
        "normalised output, in standard deviations.",
        "W2",
        tuple(m.layer.name for m in reached),
        tuple(map(_w2, reached)),
        ((limits.w2_warning, "warning"), (limits.w2_error, "error")),
    )


def _scales(measurement: Measurement) -> Iterator[Bars]:
    """The scales of the input features, where standardising them would gain much."""
    features = measurement.features
    c = None if features is None else features.conditions
    if features is None or c is None or c.gain < _WORTH_SAYING:
        return
    places = _shown_features(features, (c.steepest, c.flattest))
    scales = tuple(
        Bar(f"feature {i}", float(features.sd[i]), i in (c.steepest, c.flattest)) for i in places
    )
    numbers = (("as they are", c.raw), ("centred", c.centred), ("standardised", c.standardised))
    conditions = tuple(Bar(name, value, name == "as they are") for name, value in numbers)
    more = (
        f" ({len(places)} of {features.sd.size} features)" if len(places) < len(features.sd) else ""
    )
    yield Bars(
        "Scales of the input features",
        f"The error surface is {c.raw:.3g} times as steep in its steepest direction (feature "
        f"{c.steepest}) as in its flattest (feature {c.flattest}), and {c.standardised:.3g} times "
        "with standardised features. Scales are logarithmic.",
        ((f"standard deviation{more}", scales), ("condition number", conditions)),
    )


def _shown_features(features: InputFeatures, wanted: tuple[int, ...]) -> list[int]:
    """Those that are wanted, and the widest and narrowest of those that vary, in their order."""
    order = sorted(
        (i for i, sd in enumerate(features.sd) if sd > 0), key=lambda i: float(features.sd[i])
    )
    ends = order if len(order) <= _BARS else [*order[: _BARS // 2], *order[-_BARS // 2 :]]
    return sorted({*ends, *(i for i in wanted if features.sd[i] > 0)})


def _features(features: InputFeatures) -> str:
    text = (
        f"{count(int(features.sd.size), 'feature')} of {visible(features.layer) or 'the model'}, "
        f"means {features.mean.min():.3g} .. {features.mean.max():.3g}, standard deviations "
        f"{features.sd.min():.3g} .. {features.sd.max():.3g} (spread {features.spread:.3g})"
    )
    c = features.conditions
    if c is None:
        return text
    return (
        f"{text}; condition number of the error surface (its steepest direction over its flattest) "
        f"{c.raw:.3g} as they are, {c.centred:.3g} centred, {c.standardised:.3g} standardised: "
        f"steepest along feature {c.steepest}, flattest along feature {c.flattest}"
    )
