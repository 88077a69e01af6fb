"""Stored statistics against seen ones, a point for each channel: what is wrong is a shape.

On the diagonal all is well. A line of another slope is another unit, a cloud without a line another
order or another layer, a single point off it one channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.reporting.figures import Cloud, Clouds, LayerClouds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bncheck.measuring.measurement import MeasuredLayer, Measurement

    Floats = NDArray[np.float64]

#: Layers and channels that are drawn: a page stays below a megabyte.
_LAYERS: Final = 40
_CHANNELS: Final = 400
#: Of numbers that vary by less than this share of their size a slope says nothing.
_VARIES: Final = 1e-3


def clouds(measurement: Measurement) -> Clouds:
    """The worst layers first; those from the warning on are open."""
    ranked = sorted(measurement.reached, key=lambda m: -_w2(m))
    chosen = ranked[:_LAYERS]
    left = len(ranked) - len(chosen)
    more = f" {left} layers that deviate less are left out." if left else ""
    return Clouds(
        "What the layers store, and what they see",
        f"A point is a channel. On the diagonal the running statistic is the measured one.{more}",
        tuple(_layer(m, measurement.thresholds.w2_warning) for m in chosen),
    )


def _layer(m: MeasuredLayer, limit: float) -> LayerClouds:
    moments = m.batch_moments or m.eval_moments
    w2 = _w2(m)
    drawn: tuple[Cloud, ...] = ()
    if moments is not None and m.layer.mean is not None and m.layer.var is not None:
        seen_var, var = _logs(moments.unbiased_var), _logs(m.layer.var)
        drawn = (
            _cloud("mean", moments.mean, np.asarray(m.layer.mean, np.float64)),
            _cloud("log10 of the variance", seen_var, var),
        )
    return LayerClouds(m.layer.name, f"W2 {w2:.2f}", w2 >= limit, drawn)


def _logs(var: object) -> Floats:
    """Of what is positive; anything else cannot be drawn."""
    values = np.asarray(var, np.float64)
    logs: Floats = np.log10(np.where(values > 0, values, np.nan))
    return logs


def _cloud(title: str, seen: Floats, stored: Floats) -> Cloud:
    known = np.isfinite(seen) & np.isfinite(stored)
    x, y = seen[known], stored[known]
    places = np.linspace(0, x.size - 1, min(x.size, _CHANNELS)).round().astype(int)
    return Cloud(title, _short(x[places]), _short(y[places]), _slope(x, y))


def _slope(x: Floats, y: Floats) -> float | None:
    """Least squares of stored over seen; None where the seen ones hardly vary."""
    if x.size < 3:
        return None
    spread = float(x.std())
    if spread <= _VARIES * max(float(np.abs(x).max()), 1.0):
        return None
    return float(((x - x.mean()) * (y - y.mean())).mean() / spread**2)


def _short(values: Floats) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values)


def _w2(m: MeasuredLayer) -> float:
    return m.eval.w2 if m.eval is not None else 0.0
