"""BN108."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.core.findings import Finding, Severity
from bncheck.core.words import count
from bncheck.rules.rule import Network, Rule, rule

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

#: The largest finite number of a dtype, and the momentum below which its average stands still: an
#: update smaller than half a unit in the last place, 2^-11 or 2^-8 of the value, is lost.
_LIMITS = {"float16": (65504.0, 0.001), "bfloat16": (3.3895e38, 0.01)}
_KEEP: Final = "keep BatchNorm's buffers in float32 while training"


@rule("BN108", "low-precision-statistics", Severity.WARNING, Severity.INFO)
def low_precision(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """Running statistics are stored in half precision.

    A model cast with .half() is fine to run. Statistics that were *trained* in half precision are
    not: an update smaller than the spacing of the numbers is lost, so with a small momentum the
    average stops short of its goal (true mean 5, bfloat16, momentum 0.001: it stops at 2), and
    variances beyond 65504 overflow.

    Criterion: fp16 or bf16: info. Warning where a value sits at the dtype's upper limit, or where
    the momentum is known and at most 0.01 (bf16) or 0.001 (fp16). Double precision is never
    reported.

    Fix: keep BatchNorm's buffers in float32 (autocast does), then recalibrate.
    """
    for layer in network.tracked:
        tensors = [tensor for tensor in (layer.mean, layer.var) if tensor is not None]
        low = [tensor for tensor in tensors if tensor.dtype.itemsize == 2]
        low = [tensor for tensor in low if tensor.dtype.name in _LIMITS]
        if not low:
            continue
        dtype = low[0].dtype.name
        limit, stalls_at = _LIMITS[dtype]
        saturated = sum(_at_limit(tensor, limit) for tensor in low)
        momentum = layer.momentum
        stalls = momentum.known and momentum.value is not None and 0 < momentum.value <= stalls_at
        reason = "harmless if the model was cast after training"
        if saturated:
            reason = f"{count(saturated, 'value')} at the largest number that {dtype} can hold"
        elif stalls:
            reason = f"with momentum {momentum.value:g} most updates are too small for it to keep"
        yield self.finding(
            Severity.WARNING if saturated or stalls else Severity.INFO,
            layer.name,
            f"running statistics are {dtype}: {reason}",
            f"{_KEEP}, and recalibrate",
            instead=_KEEP,
            dtype=dtype,
            saturated=saturated,
        )


def _at_limit(tensor: Array, limit: float) -> int:
    values = np.abs(tensor.astype(np.float64))
    return int((np.isfinite(values) & (values >= limit * (1 - 1e-6))).sum())
