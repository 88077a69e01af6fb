"""Pooling for onnx's reference evaluator, whose own looks at one place after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

#: Margins at both ends of an axis.
Margins = list[tuple[int, int]]


def margins_of(
    sizes: Sequence[int], reach: Sequence[int], steps: Sequence[int], pads: Any, auto_pad: Any
) -> Margins:
    """What is added at both ends of each axis, as `pads` or `auto_pad` say."""
    axes = len(sizes)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        found = []
        for n, r, s in zip(sizes, reach, steps, strict=True):
            total = max(0, (-(-n // s) - 1) * s + r - n)
            small, large = total // 2, total - total // 2
            found.append((small, large) if auto_pad == "SAME_UPPER" else (large, small))
        return found
    amounts = list(pads or [0] * 2 * axes)
    return [(amounts[i], amounts[i + axes]) for i in range(axes)]


def windows_of(
    x: Any, reach: Sequence[int], steps: Sequence[int], gaps: Sequence[int]
) -> tuple[Any, tuple[int, ...]]:
    """A view of what a kernel sees at each place, and the axes along which it sees it."""
    axes = len(reach)
    seen = np.lib.stride_tricks.sliding_window_view(x, tuple(reach), tuple(range(2, 2 + axes)))
    picks = [slice(None, None, s) for s in steps] + [slice(None, None, d) for d in gaps]
    return seen[(slice(None), slice(None), *picks)], tuple(range(2 + axes, 2 + 2 * axes))


class MaxPool(OpRun):
    """The largest number under a kernel; onnx's own where the places are asked for as well."""

    op_domain = ""

    def _run(  # type: ignore[no-untyped-def]
        self, x, auto_pad=None, ceil_mode=None, dilations=None, kernel_shape=None, pads=None,
        storage_order=None, strides=None,
    ):  # fmt: skip
        if len(self.output) > 1 or x.dtype.kind != "f":
            from onnx.reference.ops.op_max_pool import MaxPool as WithPlaces  # and 200 others

            return WithPlaces(self.onnx_node, self.run_params).run(x)  # type: ignore[no-untyped-call]
        margins, extra, pooling = _layout(
            x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode
        )
        around = [(0, 0), (0, 0), *((a, b + e) for (a, b), e in zip(margins, extra, strict=True))]
        seen, axes = windows_of(np.pad(x, around, constant_values=-np.inf), *pooling)
        return (seen.max(axes),)


class AveragePool(OpRun):
    """The mean of the numbers under a kernel, with or without those that `pads` add."""

    op_domain = ""

    def _run(  # type: ignore[no-untyped-def]
        self, x, auto_pad=None, ceil_mode=None, count_include_pad=None, dilations=None,
        kernel_shape=None, pads=None, strides=None,
    ):  # fmt: skip
        margins, extra, pooling = _layout(
            x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode
        )
        around, beyond = [(0, 0), (0, 0), *margins], [(0, 0), (0, 0), *((0, e) for e in extra)]
        counted = np.ones((1, 1, *x.shape[2:]), x.dtype)
        ones = np.pad(counted, around, constant_values=1 if count_include_pad else 0)
        seen, axes = windows_of(np.pad(np.pad(x, around), beyond), *pooling)
        number, _ = windows_of(np.pad(ones, beyond), *pooling)
        return ((seen.sum(axes) / number.sum(axes)).astype(x.dtype),)


def _layout(
    x: Any, kernel: Sequence[int], strides: Any, dilations: Any, pads: Any, auto_pad: Any, ceil: Any
) -> tuple[Margins, list[int], tuple[list[int], list[int], list[int]]]:
    """The margins, what a rounded-up size needs behind them, and the windows' reach and steps."""
    axes = x.ndim - 2
    steps, gaps = list(strides or [1] * axes), list(dilations or [1] * axes)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, gaps, strict=True)]
    margins = margins_of(x.shape[2:], reach, steps, pads, auto_pad)
    extra = [0] * axes
    for i, (n, (before, behind)) in enumerate(zip(x.shape[2:], margins, strict=True)):
        whole = n + before + behind
        number = -(-(whole - reach[i]) // steps[i]) + 1 if ceil else 1
        if (number - 1) * steps[i] >= n + before:  # a window must begin on what there is
            number -= 1
        extra[i] = max(0, (number - 1) * steps[i] + reach[i] - whole)
    return margins, extra, (reach, steps, gaps)
