"""A few places of a map show what a region does, where its calls treat all places alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from bncheck.folding.windows import Window, window_of
from bncheck.graph import specs
from bncheck.graph.convolutions import conv, transposed
from bncheck.graph.dataflow import Op, Shape

_FIXED = {"w": (4, 4, 3, 3), "g": (4, 1, 1), "one": (), "table": (4, 60, 60), "row": (60,),
          "sample": (2, 1, 1, 1), "norm": (4,), "odd": None}  # fmt: skip


def _op(spec: specs.Spec, *inputs: str, out: str = "y", kind: str = "") -> Op:
    return Op(out, spec, inputs, (out,), out, kind)


def _conv(size: int = 3, stride: int = 1, gap: int = 1, dims: int = 2) -> specs.Conv:
    return conv(1, (size,) * dims, stride, gap, gap, gap)


def _found(
    *ops: Op | None, entries: Mapping[str, Shape] | None = None, fixed: Any = _FIXED
) -> Window | None:
    return window_of(ops, entries or {"x": (2, 4, 60, 60)}, fixed)


@pytest.mark.parametrize(("gap", "size"), [(1, 6), (9, 22), (40, 60)])
def test_every_tap_of_a_kernel_meets_the_map(gap: int, size: int) -> None:
    window = _found(_op(_conv(gap=gap), "x", "w"))
    assert window is not None
    assert window.of(np.zeros((2, 4, 60, 60))).shape == (1, 4, size, size)


def test_kernels_behind_each_other_see_further() -> None:
    pool = specs.Maximum((2, 3), kernel=specs.Kernel((2, 2), (2, 2), (1, 1)))
    window = _found(_op(pool, "x"), _op(_conv(), "y", "w", out="z"))
    assert window == Window((13, 13), (2, 2))


def test_axes_have_windows_of_their_own() -> None:
    spec = conv(1, (1, 7), (1, 3), 1, 0, 0)
    window = _found(_op(spec, "x", "w"))
    assert window is not None
    assert window.sizes((60, 61)) == (4, 19)


@pytest.mark.parametrize(
    "op",
    [
        _op(specs.Add((1.0, 1.0)), "x", "table"),  # numbers by place
        _op(specs.Mul(), "x", "row"),
        _op(specs.Mul(), "x", "odd"),
        _op(specs.Add((1.0, 1.0)), "x", "positions"),  # computed from a size
        _op(_conv(), "x", "computed"),
        _op(_conv(dims=1), "x", "w"),  # an image without a batch
        _op(specs.Norm(1e-5, True), "x", "norm", "norm", "norm", "norm"),
        _op(specs.Concat(1), "x", "table"),
        _op(specs.Concat(2), "x", "x"),
        _op(specs.Average((2, 3)), "x"),  # to a size, or adaptive
        _op(specs.Maximum((2, 3)), "x"),
        _op(specs.Average((2, 3), drops=True), "x"),
        _op(specs.RunningSum((3,), None), "x"),
        _op(specs.Pad((2, 3), 0.0), "x"),
        _op(specs.Split(3, (slice(0, 30), slice(30, 60))), "x"),
        _op(specs.Gather(((3, tuple(range(60))[::-1]),)), "x"),
        _op(specs.Transpose((0, 1, 3, 2)), "x"),
        _op(specs.Reshape(), "x"),
        _op(specs.ShapeOf(), "x"),
        _op(specs.Opaque("Where"), "x"),
        _op(transposed(1, (3, 3), 2, 1, False, sized=True), "x", "w"),
        None,
    ],
)
def test_where_places_may_differ_the_whole_is_needed(op: Op | None) -> None:
    assert _found(op) is None


@pytest.mark.parametrize(
    "op",
    [
        _op(specs.Mul(), "x", "g"),
        _op(specs.Mul(), "x", "one"),
        _op(specs.Mul(), "x", "sample"),
        _op(specs.Rectifier("prelu", None), "x", "norm", kind="prelu"),
        _op(specs.Norm(1e-5, False), "x", "norm", "norm", "norm", "norm"),
        _op(specs.Concat(1), "x", "x"),
        _op(specs.PixelShuffle(2), "x"),
        _op(transposed(1, (1, 1), 1, 1, True), "x", "w"),
    ],
)
def test_few_places_are_enough_where_all_are_alike(op: Op) -> None:
    assert _found(op) == Window((4, 4), (1, 1))


def test_maps_must_be_of_one_size_or_of_one_place() -> None:
    product = _op(specs.Mul(), "x", "h")
    gate = {"x": (2, 4, 60, 60), "h": (2, 4, 1, 1)}
    assert _found(product, entries=gate) == Window((4, 4), (1, 1))
    for other in ((2, 4, 30, 30), (2, 4, 60, 1), (2, 4), (2, 4, 60)):
        assert _found(product, entries={**gate, "h": other}) is None
    assert _found(product, entries={"x": (2, 4), "h": (2, 4)}) is None


def test_what_has_one_place_is_taken_as_it_is() -> None:
    assert Window((4, 4), (1, 1)).of(np.zeros((2, 4, 1, 1))).shape == (1, 4, 1, 1)


def test_a_window_of_a_window_has_the_same_borders() -> None:
    one, other = Window((7, 9), (2, 4)), Window((8, 5), (3, 2))
    both = one.joined(other)
    for whole in ((60, 61), (59, 57), (40, 43)):
        kept = both.sizes(whole)
        for each in (one, other):
            taken = each.sizes(kept)
            assert all((n - t) % s == 0 for n, t, s in zip(whole, taken, each.steps, strict=True))


def _touched(calls: Sequence[Any], size: int) -> list[torch.Tensor]:
    """The last rows of what calls make of a map of ones, and so of what each has seen there."""
    ends, y = [], torch.ones(1, 1, size)
    for call in calls:
        y = call(y)
        ends.append(y[..., -2:])
    return ends


@pytest.mark.parametrize("size", range(121, 128))
@pytest.mark.parametrize(
    ("kernels", "calls"),
    [
        (
            [(3, 3, 1)],
            [lambda y: functional.conv1d(functional.pad(y, (0, 1)), torch.ones(1, 1, 3), stride=3)],
        ),
        (
            [(4, 2, 1)],
            [lambda y: functional.conv1d(functional.pad(y, (0, 1)), torch.ones(1, 1, 4), stride=2)],
        ),
        (
            [(3, 2, 1), (2, 3, 1)],
            [
                lambda y: functional.conv1d(y, torch.ones(1, 1, 3), stride=2, padding=1),
                lambda y: functional.avg_pool1d(y, 2, 3, padding=1, ceil_mode=True),
            ],
        ),
        (
            [(3, 2, 1)],
            [lambda y: functional.avg_pool1d(y, 3, 2, ceil_mode=True, count_include_pad=False)],
        ),
    ],
)
def test_borders_are_those_of_the_whole_map(
    kernels: list[tuple[int, int, int]], calls: list[Any], size: int
) -> None:
    """Whatever the size is: whether padding is met behind the last row depends on it."""
    ops, read = [], "x"
    for place, (kernel, step, gap) in enumerate(kernels):
        pool = specs.Average((2,), kernel=specs.Kernel((kernel,), (step,), (gap,)))
        ops.append(_op(pool, read, out=f"y{place}"))
        read = f"y{place}"
    window = _found(*ops, entries={"x": (1, 1, size)})
    assert window is not None
    (seen,) = window.sizes((size,))
    assert seen < size
    assert (size - seen) % math.prod(step for _, step, _ in kernels) == 0
    for whole, part in zip(_touched(calls, size), _touched(calls, seen), strict=True):
        torch.testing.assert_close(part, whole)
