"""--shape: what the layers see beside mean and variance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.words import count
from bncheck.reporting.document import Table
from bncheck.reporting.spark import bars
from bncheck.reporting.visible import layer_name

if TYPE_CHECKING:
    from bncheck.measuring.histogram import Shape
    from bncheck.measuring.measurement import Measurement

#: Layers shown without --verbose.
_ROWS: Final = 10
#: Blocks of a histogram: bins are taken together.
_BLOCKS: Final = 16


def said_of(shapes: Mapping[str, Shape]) -> str:
    """What the histograms say of all layers together."""
    odd = {name: int(shape.odd.sum()) for name, shape in shapes.items()}
    outliers = sum(int(shape.outliers.sum()) for shape in shapes.values())
    total = sum(shape.odd.size for shape in shapes.values())
    most = max(odd, key=lambda name: odd[name] / max(shapes[name].odd.size, 1))
    where = f", most in {layer_name(most)} ({odd[most]} of {shapes[most].odd.size})"
    return (
        f"{sum(odd.values()):,} of {count(total, 'channel')} are further from a normal "
        f"distribution than mean and variance explain{where if odd[most] else ''}; {outliers:,} "
        "with outliers"
    )


def tables(measurement: Measurement) -> Iterator[Table]:
    """The distribution of each layer's normalised inputs; nothing without --shape."""
    shapes = [(m.layer.name, m.shape) for m in measurement.layers if m.shape is not None]
    if not shapes:
        return
    columns = ("layer", "W1", "odd channels", "with outliers", "from -4 to 4 sd")
    ranked = sorted(range(len(shapes)), key=lambda place: -_w1(shapes[place][1]))
    yield Table(
        "Histograms",
        columns,
        tuple(_row(name, shape) for name, shape in shapes),
        columns[1:4],
        caption="Inputs of all channels, each by its running mean and deviation; W1 is their "
        "distance from a normal distribution.",
        brief=None if len(shapes) <= _ROWS else tuple(sorted(ranked[:_ROWS])),
        rest=f"the {_ROWS} of {len(shapes)} layers that are furthest (--verbose: all)",
    )


def _row(name: str, shape: Shape) -> tuple[str, ...]:
    pooled = shape.counts.sum(axis=0).reshape(_BLOCKS, -1).sum(axis=1)
    odd, outliers = int(shape.odd.sum()), int(shape.outliers.sum())
    return (
        name or "(root)",
        f"{_w1(shape):.3f}",
        f"{odd:,}",
        f"{outliers:,}",
        bars(pooled.tolist()),
    )


def _w1(shape: Shape) -> float:
    return float(np.sqrt(np.mean(shape.w1**2)))
