"""Operators of our own for onnx's reference evaluator: quicker, or right where its own are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from bncheck.runtime.pools import AveragePool, MaxPool, margins_of, windows_of
from bncheck.runtime.resizing import OldResize, Resize, Upsample

#: Numbers of a kernel that are widened at a time, into a processor's cache.
_AT_ONCE = 1 << 17


def own_operators(opset: int) -> list[type[OpRun]]:
    """Those for a model of that version of the standard operators."""
    found: list[type[OpRun]] = [
        AveragePool, BatchNormalization, Conv, ConvTranspose, MaxPool, Pad,
    ]  # fmt: skip
    if opset >= 21:
        found.append(GroupNormalization)
    if opset < 19:
        found.append(DequantizeLinear)
    if opset < 11:
        found += [Upsample, OldResize]
    elif opset < 13:
        found.append(Resize)
    if opset < 7:
        found += [Add, Sub, Mul, Div]
    return found


class Conv(OpRun):
    """Convolution as products of matrices, those of all groups at once."""

    op_domain = ""

    def _run(  # type: ignore[no-untyped-def]
        self, x, w, b=None, auto_pad=None, dilations=None, group=None, kernel_shape=None,
        pads=None, strides=None,
    ):  # fmt: skip
        axes = x.ndim - 2
        kernel = w.shape[2:]
        steps, gaps = list(strides or [1] * axes), list(dilations or [1] * axes)
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, gaps, strict=True)]
        margins = margins_of(x.shape[2:], reach, steps, pads, auto_pad)
        x = np.pad(x, [(0, 0), (0, 0), *margins])
        windows, _ = windows_of(x, reach, steps, gaps)
        places, groups = windows.shape[2 : 2 + axes], group or 1
        kernels = w.reshape(groups, w.shape[0] // groups, -1)
        order = (0, *range(1 + axes, 1 + 2 * axes), *range(1, 1 + axes))
        y = np.empty((len(x), w.shape[0], *places), dtype=np.result_type(x, w))
        for sample, seen in zip(y, windows, strict=True):
            columns = seen.transpose(order).reshape(groups, kernels.shape[2], -1)
            sample[...] = _product(kernels, columns).reshape(sample.shape)
        return (y if b is None else y + b.reshape(1, -1, *[1] * axes),)


def _product(kernels: Any, columns: Any) -> Any:
    """Products by group. Kernels of another dtype are widened a part at a time: they are large."""
    if kernels.dtype == columns.dtype:
        return kernels @ columns
    groups, rows, length = kernels.shape
    result = np.empty((groups, rows, columns.shape[2]), columns.dtype)
    step = max(1, _AT_ONCE // max(1, groups * length))
    for first in range(0, rows, step):
        part = kernels[:, first : first + step].astype(columns.dtype)
        np.matmul(part, columns, out=result[:, first : first + step])
    return result


class ConvTranspose(OpRun):
    """Every input position adds its kernel to the output."""

    op_domain = ""

    def _run(  # type: ignore[no-untyped-def]
        self, x, w, b=None, auto_pad=None, dilations=None, group=None, kernel_shape=None,
        output_padding=None, output_shape=None, pads=None, strides=None,
    ):  # fmt: skip
        axes = x.ndim - 2
        kernel = w.shape[2:]
        steps, gaps = list(strides or [1] * axes), list(dilations or [1] * axes)
        extra = list(output_padding or [0] * axes)
        sizes = [
            (n - 1) * s + (k - 1) * d + 1 + e
            for n, s, k, d, e in zip(x.shape[2:], steps, kernel, gaps, extra, strict=True)
        ]
        groups = group or 1
        inner, outer = x.shape[1] // groups, w.shape[1]
        y = np.zeros((x.shape[0], groups * outer, *sizes), dtype=np.result_type(x, w))
        columns = x.reshape(x.shape[0], groups, inner, -1)
        kernels = w.reshape(groups, inner, outer, *kernel)
        for tap in np.ndindex(*kernel):
            where = tuple(
                slice(t * d, t * d + (n - 1) * s + 1, s)
                for t, d, n, s in zip(tap, gaps, x.shape[2:], steps, strict=True)
            )
            part = kernels[(..., *tap)].swapaxes(1, 2) @ columns
            y[(slice(None), slice(None), *where)] += part.reshape(*y.shape[:2], *x.shape[2:])
        y = _cut(y, sizes, pads, auto_pad, output_shape, x.shape[2:], steps)
        return (y if b is None else y + b.reshape(1, -1, *[1] * axes),)


class Pad(OpRun):
    """onnx's own (1.23) cannot cut, which is what a negative amount asks for."""

    op_domain = ""

    def _run(  # type: ignore[no-untyped-def]
        self, x, amounts=None, value=None, axes=None, mode=None, pads=None,
    ):  # fmt: skip
        given = range(x.ndim) if axes is None else [int(axis) % x.ndim for axis in axes]
        sizes = [int(size) for size in (pads if amounts is None else amounts)]
        margins, cuts = [(0, 0)] * x.ndim, [slice(None)] * x.ndim
        for axis, *pair in zip(given, sizes[: len(given)], sizes[len(given) :], strict=True):
            margins[axis] = (max(pair[0], 0), max(pair[1], 0))
            cuts[axis] = slice(max(-pair[0], 0), x.shape[axis] + min(pair[1], 0))
        x = x[tuple(cuts)]
        kind: Any = mode or "constant"
        if kind == "constant":
            filling = 0 if value is None else np.asarray(value).reshape(-1)[0]
            return (np.pad(x, margins, constant_values=filling),)
        return (np.pad(x, margins, mode=kind),)


class BatchNormalization(OpRun):
    """onnx's own (1.23) takes any model of opset 9 to 13 with a momentum for one in training."""

    op_domain = ""

    def _run(  # type: ignore[no-untyped-def]
        self, x, scale, b, mean, var, epsilon=None, momentum=None, training_mode=None,
        spatial=None, is_test=None, consumed_inputs=None,
    ):  # fmt: skip
        trains = bool(training_mode) or len([name for name in self.onnx_node.output if name]) > 1
        sizes, axes = (1, -1) + (1,) * (x.ndim - 2), (0, *range(2, x.ndim))
        if spatial == 0:  # opset 8 and before: statistics for each place
            sizes, axes = (1, *x.shape[1:]), (0,)
        old = mean, var
        if trains:
            mean, var = x.mean(axes), x.var(axes)
        deviation = np.sqrt(var + (1e-5 if epsilon is None else epsilon))
        y = (x - mean.reshape(sizes)) * (scale.reshape(sizes) / deviation.reshape(sizes))
        y = (y + b.reshape(sizes)).astype(
            x.dtype, copy=False
        )  # bfloat16 becomes float32 on its way
        if not trains:
            return (y,)
        keep = 0.9 if momentum is None else momentum
        moved = [o * keep + n * (1 - keep) for o, n in zip(old, (mean, var), strict=True)]
        return (y, *moved, mean, var)[: len(self.onnx_node.output)]


class GroupNormalization(OpRun):
    """Of opset 21. onnx's own (1.23) is a function that wants to know the types around it."""

    op_domain = ""

    def _run(self, x, scale, bias, epsilon=None, num_groups=None, stash_type=None):  # type: ignore[no-untyped-def]
        grouped = x.reshape(len(x), num_groups, -1)
        deviation = np.sqrt(grouped.var(axis=2, keepdims=True) + epsilon)
        y = ((grouped - grouped.mean(axis=2, keepdims=True)) / deviation).reshape(x.shape)
        sizes = (1, -1, *(1,) * (x.ndim - 2))
        return (y * scale.reshape(sizes) + bias.reshape(sizes),)


class DequantizeLinear(OpRun):
    """Before opset 19, with which onnx's own (1.23) begins."""

    op_domain = ""

    def _run(  # type: ignore[no-untyped-def]
        self, x, scale, zero=None, axis=None, block_size=None, output_dtype=None,
    ):  # fmt: skip
        sizes = [1] * x.ndim
        if scale.ndim and x.ndim:
            sizes[1 if axis is None else axis] = -1
        wide = x.astype(scale.dtype)
        if zero is not None:
            wide = wide - zero.astype(scale.dtype).reshape(sizes if zero.ndim else ())
        return (wide * scale.reshape(sizes if scale.ndim else ()),)


class _OldBinary(OpRun):
    """Before opset 7 the second operand lies along the axis that the node names, or the last."""

    op_domain = ""
    compute: Any

    def _run(self, x, y, axis=None, broadcast=None, consumed_inputs=None):  # type: ignore[no-untyped-def]
        first = x.ndim - y.ndim if axis is None else axis % max(x.ndim, 1)
        if broadcast:
            y = y.reshape(y.shape + (1,) * (x.ndim - first - y.ndim))
        return (type(self).compute(x, y).astype(x.dtype),)


class Add(_OldBinary):
    """x + y."""

    compute = np.add


class Sub(_OldBinary):
    """x - y."""

    compute = np.subtract


class Mul(_OldBinary):
    """x * y."""

    compute = np.multiply


class Div(_OldBinary):
    """x / y."""

    compute = np.divide


def _cut(
    y: Any, sizes: Sequence[int], pads: Any, auto_pad: Any, output_shape: Any,
    inputs: Sequence[int], steps: Sequence[int],
) -> Any:  # fmt: skip
    axes = len(sizes)
    begin = list((pads or [0] * 2 * axes)[:axes])
    end = [n - p for n, p in zip(sizes, (pads or [0] * 2 * axes)[axes:], strict=True)]
    wanted = list(output_shape)[-axes:] if output_shape else None
    if auto_pad in ("SAME_UPPER", "SAME_LOWER") and wanted is None:
        # Kernels shorter than their steps do not reach that far, and onnxruntime adds nothing.
        wanted = [min(n * s, size) for n, s, size in zip(inputs, steps, sizes, strict=True)]
    if wanted is not None:
        # What is asked for beyond the windows is zeros at the end, as with output_padding.
        more = [max(w - n, 0) for n, w in zip(sizes, wanted, strict=True)]
        y = np.pad(y, [(0, 0), (0, 0), *((0, size) for size in more)])
        total = [max(n - w, 0) for n, w in zip(sizes, wanted, strict=True)]
        first = auto_pad == "SAME_UPPER"
        begin = [t // 2 if first else t - t // 2 for t in total]
        end = [b + w for b, w in zip(begin, wanted, strict=True)]
    where = tuple(slice(b, e) for b, e in zip(begin, end, strict=True))
    return y[(slice(None), slice(None), *where)]
