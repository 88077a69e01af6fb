"""Calls that average, take the largest or pad, as the planner sees them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from bncheck.graph.aten.calls import Call, Describe, Described, named
from bncheck.graph.axes import average, largest, padded, reduced
from bncheck.graph.convolutions import each, interpolating, sliding
from bncheck.graph.dataflow import Shape
from bncheck.graph.specs import (
    Average,
    Kernel,
    Larger,
    Maximum,
    Ordered,
    Pad,
    Reshape,
    RunningSum,
    Spec,
)

_DIMENSIONS = re.compile(r"(\d)d")
_MODE = re.compile("nearest|linear|cubic")


def _averaged(call: Call) -> Described | None:
    return call.on_source(average(call.last(_dimensions(call))))


def _largest(call: Call) -> Described | None:
    return call.on_source(Maximum(call.last(_dimensions(call))))


def _interpolated(call: Call) -> Described | None:
    """By factors, or to sizes; what lines up the corners depends on these, too."""
    mode, factors = _MODE.search(call.name), call("scale_factors")
    by_factor = call("output_size") is None and not call("align_corners", False)
    known = mode is not None and by_factor and isinstance(factors, Sequence)
    kernel = interpolating(mode[0], [float(f) for f in factors]) if known and mode else None
    return call.on_source(average(call.last(_dimensions(call)), kernel=kernel))


def _max_pool(call: Call) -> Described | None:
    return call.on_source(Maximum(call.last(_dimensions(call)), kernel=_kernel(call)))


def _kernel(call: Call) -> Kernel | None:
    """Of a pool, whose steps are its size where none are given."""
    number = _dimensions(call)
    given = [call("kernel_size"), call("stride") or call("kernel_size"), call("dilation", 1)]
    sizes = [each(item, number) for item in given]
    whole = all(isinstance(size, int) for items in sizes for size in items)
    return sliding(*sizes) if whole else None


def _mirrored(call: Call) -> Described | None:
    return call.on_source(Pad(call.last(_dimensions(call)), None))


def _dimensions(call: Call) -> int:
    """The 2 of max_pool2d and upsample_bilinear2d."""
    found = _DIMENSIONS.search(call.name)
    assert found is not None
    return int(found[1])


def _average_pool(call: Call) -> Described | None:
    pads, divisor = any(each(call("padding"), 1)), call("divisor_override")
    axes, kernel = call.last(_dimensions(call)), _kernel(call)
    if divisor is None:
        return call.on_source(average(axes, pads and bool(call("count_include_pad")), kernel))
    sizes = each(call("kernel_size"), _dimensions(call))
    whole = not pads and not call("ceil_mode") and all(isinstance(size, int) for size in sizes)
    gain = math.prod(sizes) / divisor if whole else None
    return call.on_source(Average(tuple(axes), gain, kernel=kernel))


def _rotated(call: Call) -> Described | None:
    """Each place takes another one's number: all its weight is there."""
    return call.on_source(average(sorted(int(axis) % call.rank for axis in call("dims"))))


def _sampled(call: Call) -> Described:
    zeros = call("padding_mode") == 0
    return average(call.last(call.rank - 2), zeros), tuple(call.args[:2])


def _mean(call: Call) -> Described | None:
    drops, sums = not call("keepdim", False), call.name == "sum"
    changes = call.dtype(call.results[0]) != call.dtype(call.source)
    return (
        None
        if changes
        else call.on_source(reduced(call.shape, _axes(call), drops=drops, sums=sums))
    )


def _extreme(call: Call) -> Described | None:
    drops = not call("keepdim", False)
    return call.on_source(largest(call.shape, _axes(call), drops=drops))


def _extreme_and_place(call: Call) -> Described | None:
    if call("other") is not None:
        return Larger(), (call.source, call("other"))
    call.whole("dim")
    return _extreme(call)


def _ordered(call: Call) -> Described | None:
    """Along an axis that is given; a quantile lies between two neighbours."""
    one = call.name != "quantile" or isinstance(call("q"), float)
    if not one or (call("dim") is None and call.name != "msort"):
        return None
    return call.on_source(Ordered((call.axis(),), drops=call("keepdim", True) is False))


def _running_sum(call: Call) -> Described | None:
    same = call.dtype(call.results[0]) == call.dtype(call.source)
    return call.on_source(RunningSum((call.axis(),), None)) if same else None


def _axes(call: Call) -> list[int] | None:
    given = call("dim")
    return None if given in (None, []) else each(given, 1)


def _padded(call: Call) -> Described | None:
    """Amounts come in pairs, those of the last axis first."""
    sizes, constant = list(call("pad")), call("mode", "constant") == "constant"
    axes = reversed(call.last(len(sizes) // 2))
    amounts = dict(zip(axes, zip(sizes[::2], sizes[1::2], strict=True), strict=True))
    value = call("value") or 0.0
    if constant and not isinstance(value, (int, float)):
        return None
    number = float(value) if constant else None
    if all(isinstance(size, int) for size in sizes):
        return call.on_source(padded(amounts, number))
    free = {axis for axis, pair in amounts.items() if pair != (0, 0)}
    return call.on_source(Pad(tuple(sorted(free)), number))  # by sizes that are free


def windows(call: Call) -> tuple[Spec, Shape, Spec] | None:
    """Sliding windows as two steps, with the shape between them: what moves stands for its mean."""
    steps = {"unfold": _unfold, "im2col": _im2col}.get(call.name)
    if steps is None:
        return None
    shape, result = (call.named_sizes(item) for item in (call("self"), call.results[0]))
    return None if shape is None or result is None else steps(call, shape, result)


def _unfold(call: Call, shape: Shape, _: Any) -> tuple[Spec, Shape, Spec]:
    """The places of a window are a new, last axis."""
    axis = call.whole("dimension") % len(shape)
    return Reshape(), (*shape, 1), average((axis, len(shape)))


def _im2col(call: Call, shape: Shape, result: Shape) -> tuple[Spec, Shape, Spec] | None:
    if len(shape) != 4:
        return None
    places = math.prod(each(call("kernel_size"), 2))
    pads = any(each(call("padding"), 2))
    return average((2, 3), pads), (*shape[:2], places, result[2]), Reshape()


POOLING: dict[str, Describe] = {
    **named(_averaged, "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"),
    **named(_averaged, "_adaptive_avg_pool2d _adaptive_avg_pool3d"),
    **named(_interpolated, "upsample_nearest1d upsample_nearest2d upsample_nearest3d"),
    **named(_interpolated, "_upsample_nearest_exact1d _upsample_nearest_exact2d"),
    **named(_interpolated, "_upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d"),
    **named(_interpolated, "upsample_trilinear3d upsample_bicubic2d"),
    **named(_averaged, "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
    **named(_max_pool, "max_pool1d max_pool2d max_pool3d"),
    **named(_largest, "max_pool1d_with_indices"),
    **named(_largest, "max_pool2d_with_indices max_pool3d_with_indices"),
    **named(_largest, "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"),
    **named(_average_pool, "avg_pool1d avg_pool2d avg_pool3d"),
    "rot90": _rotated,
    "grid_sampler": _sampled,
    **named(_mean, "mean sum"),
    **named(_extreme, "amax amin"),
    **named(_extreme_and_place, "max min"),
    **named(_ordered, "sort msort topk kthvalue median nanmedian quantile cummax cummin"),
    "cumsum": _running_sum,
    **named(_mirrored, "reflection_pad1d reflection_pad2d reflection_pad3d"),
    **named(_mirrored, "replication_pad1d replication_pad2d replication_pad3d"),
    **named(_padded, "pad constant_pad_nd"),
}
