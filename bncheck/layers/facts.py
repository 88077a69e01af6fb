"""What a layer's own numbers tell, without a model or data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bncheck.core.thresholds import DEAD_VARIANCE
from bncheck.layers.norm_layer import NormLayer

if TYPE_CHECKING:
    import numpy.typing as npt

    from bncheck.layers.channels import Channels
    from bncheck.layers.norm_layer import Floats


def at_initial_statistics(layer: NormLayer) -> bool:
    """Mean exactly 0 and variance exactly 1 in every channel: what a new layer holds."""
    if layer.statistics is None or not layer.channels:
        return False
    mean, var = layer.statistics
    return bool((mean == 0).all() and (var == 1).all())


def never_written(layer: NormLayer) -> bool:
    """Mean and variance exactly 0 in every channel: memory that was never written.

    A dead layer's variance decays to the smallest float, 5.6e-45 at momentum 0.1, and is rounded to
    that for ever. Half precision makes it 0, so this says nothing there.
    """
    if layer.statistics is None or layer.var is None or layer.var.dtype.itemsize < 4:
        return False
    return not any(values.any() for values in layer.statistics)


def dead_channels(layer: NormLayer) -> npt.NDArray[np.bool_]:
    """Which channels have a variance of practically zero; negative and NaN are other faults."""
    if layer.var is None:
        return np.zeros(0, bool)
    var = layer.var.astype(np.float64)
    return np.asarray((var >= 0) & (var < DEAD_VARIANCE))


def initial_share(layer: NormLayer) -> float:
    """How much of the running average is still its initial value; 0 for a cumulative average."""
    momentum = layer.momentum.value
    if momentum is None or layer.counter is None or not 0 < momentum < 1:
        return 0.0
    return float((1 - momentum) ** layer.counter)


def initial_shares(channels: Channels) -> Floats:
    """The same of many layers; NaN without a counter."""
    momentum = channels.momentum
    updates = (momentum > 0) & (momentum < 1)
    return np.where(updates, (1 - momentum) ** channels.counter, 0.0)


def predicted_w2(layer: NormLayer, w0: float) -> float:
    """W2 between the running statistics and what they would be without their initial value."""
    assert layer.statistics is not None
    assert layer.eps.value is not None
    return float(np.sqrt(np.mean(squared_w2_without(w0, *layer.statistics, layer.eps.value))))


def squared_w2_without(
    w0: float | Floats, mean: Floats, var: Floats, eps: float | Floats
) -> Floats:
    """The same of each channel, squared."""
    sigma = np.sqrt(var + eps)
    warm_var = np.maximum((var - w0) / (1 - w0), 0.0)
    shift = w0 / (1 - w0) * mean / sigma
    ratio = np.sqrt(warm_var + eps) / sigma
    return np.asarray(shift**2 + (ratio - 1) ** 2)


def median(numbers: npt.NDArray[np.float64]) -> float:
    """The median of numbers, infinite ones included; np.median imports numpy.ma."""
    ordered = np.sort(numbers, axis=None)
    middle = ordered.size // 2
    return float((ordered[middle] + ordered[~middle]) / 2)
