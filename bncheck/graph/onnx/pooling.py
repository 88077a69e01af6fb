"""ONNX nodes that average, take the largest or pad, as the planner sees them."""

from __future__ import annotations

import numpy as np

from bncheck.graph.axes import average, largest, padded, reduced
from bncheck.graph.convolutions import interpolating, sliding
from bncheck.graph.onnx.call import Describe, NodeCall
from bncheck.graph.operators import UndescribedError
from bncheck.graph.specs import Kernel, Maximum, Ordered, RunningSum, Spec

#: Where a place of the result lies in the input, whatever the sizes are.
_BY_FACTOR = {"half_pixel", "pytorch_half_pixel", "asymmetric"}


def _spatial(call: NodeCall) -> tuple[int, ...]:
    return tuple(range(2, len(call.shape())))


def _averaged(call: NodeCall) -> Spec:
    return average(_spatial(call))


def _largest(call: NodeCall) -> Spec | None:
    return Maximum(_spatial(call)) if call.gives_one else None


def _max_pool(call: NodeCall) -> Spec | None:
    return Maximum(_spatial(call), kernel=_kernel(call)) if call.gives_one else None


def _kernel(call: NodeCall) -> Kernel | None:
    a = call.attribute
    return sliding(a("kernel_shape", ()), a("strides") or [1], a("dilations") or [1])


def _sampled(call: NodeCall) -> Spec:
    return average(_spatial(call), call.attribute("padding_mode", "zeros") == "zeros")


def _average_pool(call: NodeCall) -> Spec:
    a = call.attribute
    # With ceil_mode, too, windows may reach beyond the input, and runtimes count differently.
    reaches = any(a("pads", ())) or call.keeps_size or a("ceil_mode", 0)
    counts = bool(reaches and a("count_include_pad", 0))
    return average(_spatial(call), counts, _kernel(call))


def _mean(call: NodeCall) -> Spec:
    drops, sums = not call.attribute("keepdims", 1), call.kind == "ReduceSum"
    return reduced(call.shape(), _axes(call), drops=drops, sums=sums)


def _extreme(call: NodeCall) -> Spec:
    return largest(call.shape(), _axes(call), drops=not call.attribute("keepdims", 1))


def _axes(call: NodeCall) -> list[int] | None:
    """Those given; without any it is all axes, or nothing is done where the node says so."""
    axes = call.integers(1, "axes")
    if axes:
        return axes
    if call.attribute("noop_with_empty_axes", 0):
        raise UndescribedError
    return None


def _running_sum(call: NodeCall) -> Spec | None:
    axes = call.integers(1)
    return RunningSum((axes[0] % len(call.shape()),), None) if axes else None


def _ordered(call: NodeCall) -> Spec | None:
    return Ordered((call.axis(-1),)) if call.gives_one else None


def _resized(call: NodeCall) -> Spec | None:
    before, after = call.shape(), call.scope.shape(call.node.output[0])
    crops = call.attribute("coordinate_transformation_mode") == "tf_crop_and_resize"
    keeps_channels = after is not None and before[:2][1:] == after[:2][1:]
    return average(_spatial(call), kernel=_factors(call)) if keeps_channels and not crops else None


def _factors(call: NodeCall) -> Kernel | None:
    """Those of an Upsample or Resize; from opset 11 on, a region of interest is before them."""
    place = 1 if call.kind == "Upsample" or call.opset < 11 else 2
    given, default = call.name(place), "half_pixel" if place == 2 else "asymmetric"
    found = call.scope.fixed(given) if given else call.attribute("scales")
    factors = [float(factor) for factor in np.ravel(() if found is None else found)]
    by_factor = call.attribute("coordinate_transformation_mode", default) in _BY_FACTOR
    known = by_factor and not call.name(3) and len(factors) == len(call.shape())
    return interpolating(call.attribute("mode", "nearest"), factors[2:]) if known else None


def _padded(call: NodeCall) -> Spec | None:
    rank = len(call.shape())
    sizes, value, axes = call.integers(1, "pads"), call.numbers(2, "value"), call.integers(3)
    given = [axis % rank for axis in (range(rank) if axes is None else axes)]
    if sizes is None or len(sizes) != 2 * len(given):
        return None
    pairs = zip(sizes[: len(given)], sizes[len(given) :], strict=True)
    constant = call.attribute("mode", "constant") == "constant"
    filling = float(np.ravel(0.0 if value is None else value)[0]) if constant else None
    return padded(dict(zip(given, pairs, strict=True)), filling)


POOLING: dict[str, Describe] = {
    "GlobalAveragePool": _averaged,
    "GlobalMaxPool": _largest,
    "GridSample": _sampled,
    "AveragePool": _average_pool,
    "MaxPool": _max_pool,
    **dict.fromkeys(("ReduceMean", "ReduceSum"), _mean),
    **dict.fromkeys(("ReduceMax", "ReduceMin"), _extreme),
    "CumSum": _running_sum,
    "TopK": _ordered,
    **dict.fromkeys(("Resize", "Upsample"), _resized),
    "Pad": _padded,
}
