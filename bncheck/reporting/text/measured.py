"""The measured part of the report at the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bncheck.core.thresholds import Thresholds
from bncheck.core.words import count
from bncheck.reporting.layout import STYLES, layer_name
from bncheck.reporting.text.recalibrate import side_by_side
from bncheck.reporting.visible import visible

if TYPE_CHECKING:
    from bncheck.measuring.features import InputFeatures
    from bncheck.measuring.measurement import MeasuredLayer, Measurement

_BAR: Final = 12
#: Layers shown without --verbose.
_ROWS: Final = 10
_SIZES: Final = (1, 4, 16, 64, 256, 1024)


def summary(measurement: Measurement, verbose: bool) -> Text:
    """How much was measured, and the one number; with `verbose` the results side by side."""
    text = Text(f"measured on {count(measurement.samples, 'sample')}")
    if measurement.available and measurement.available > measurement.samples:
        text.append(f" of {measurement.available:,}")
    worst = measurement.worst
    if worst is None:
        return text.append(": no layer was reached")
    limits = measurement.thresholds
    text.append(f": largest W2 {measurement.w2:.2f}", _style(limits, measurement.w2))
    text.append(f" at {layer_name(worst.layer.name)}")
    text.append(f" (warning from {limits.w2_warning:.2f}, error from {limits.w2_error:.2f})", "dim")
    if measurement.comparison is not None and verbose:
        line = side_by_side(measurement.comparison, "with the running statistics", "with measured")
        text.append(f"\n{line}" if line else "")
    if measurement.samples < 256:
        text.append("\nfewer than 256 samples: a warning may be chance", "dim")
    return text


def table(measurement: Measurement, verbose: bool) -> RenderableType:
    """W2 of the layers in both cascades, in the order of execution; all of them with `verbose`."""
    layers = measurement.layers if verbose else _worst(measurement.layers)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("layer", overflow="fold")
    grid.add_column("W2 in eval", justify="right", no_wrap=True)
    grid.add_column("", no_wrap=True)
    grid.add_column("by itself", justify="right", no_wrap=True)
    grid.add_column("mean off by", justify="right", no_wrap=True)
    grid.add_column("variance is", justify="right", no_wrap=True)
    limits = measurement.thresholds
    for m in layers:
        name = Text(layer_name(m.layer.name))
        if m.eval is None:
            grid.add_row(name, "-", Text("no data reached it", "dim"), "", "", "")
            continue
        alone = m.batch or m.eval
        mean = float((alone.d**2).mean()) ** 0.5
        times = math.exp(alone.signed)
        grid.add_row(
            name,
            Text(f"{m.eval.w2:.3f}", _style(limits, m.eval.w2)),
            Text(_bar(limits, m.eval.w2), _style(limits, m.eval.w2)),
            "" if m.batch is None else Text(f"{m.batch.w2:.3f}", _style(limits, m.batch.w2)),
            f"{mean:.2f} sd",
            f"{_times(times)} x seen",
        )
    if len(layers) == len(measurement.layers):
        return grid
    left = (
        f"the {len(layers)} of {len(measurement.layers)} layers that deviate most (--verbose: all)"
    )
    return Group(grid, Text(left, "dim"))


def _times(ratio: float) -> str:
    """1.09, but 6.5e+04 and 1.5e-05: neither wide nor rounded to 0."""
    return f"{ratio:.2f}" if 0.01 <= ratio < 1000 else f"{ratio:.1e}"


def _worst(layers: Sequence[MeasuredLayer]) -> Sequence[MeasuredLayer]:
    """The few that a screen has room for: those furthest off in the eval cascade, in order."""
    if len(layers) <= _ROWS:
        return layers
    ranked = sorted(range(len(layers)), key=lambda i: -_w2(layers[i]))
    return [layers[index] for index in sorted(ranked[:_ROWS])]


def _w2(measured: MeasuredLayer) -> float:
    return measured.eval.w2 if measured.eval is not None else 0.0


def details(measurement: Measurement) -> RenderableType:
    """Batch size advice and the scales of the input features."""
    noise = measurement.batch_noise()
    limit = measurement.thresholds.w2_warning
    smallest = measurement.smallest_batch(limit)
    lines = [
        Text.assemble(
            ("batch size: ", "bold"),
            f"statistics of a batch are noise of W2 "
            f"{', '.join(f'{noise[size]:.2f} at {size}' for size in _SIZES)}; below "
            f"{limit:.2f} from {smallest} on",
        )
    ]
    if measurement.features is not None:
        lines.append(_features(measurement.features))
    shaped = [m for m in measurement.layers if m.shape is not None]
    for m in shaped:
        assert m.shape is not None
        lines.append(
            Text(
                f"shape of {visible(m.layer.name)}: {count(int(m.shape.odd.sum()), 'channel')} "
                f"further from a bell than mean and variance say, "
                f"{int(m.shape.outliers.sum())} with outliers"
            )
        )
    return Group(*lines)


def _features(features: InputFeatures) -> Text:
    text = Text.assemble(("input: ", "bold"))
    text.append(
        f"{count(int(features.sd.size), 'feature')} of {visible(features.layer) or 'the model'}, "
        f"means {features.mean.min():.3g} .. {features.mean.max():.3g}, standard deviations "
        f"{features.sd.min():.3g} .. {features.sd.max():.3g} (spread {features.spread:.3g})"
    )
    if features.condition_number is not None:
        text.append(f", condition number of their second moments {features.condition_number:.3g}")
    return text


def _style(limits: Thresholds, w2: float) -> str:
    severity = limits.severity(w2)
    return "" if severity is None else STYLES[severity]


def _bar(limits: Thresholds, w2: float) -> str:
    """Full at twice an error."""
    filled = min(_BAR, round(w2 / (2 * limits.w2_error) * _BAR))
    return "█" * filled + "·" * (_BAR - filled)
