"""Convolutions by their settings, which torch and ONNX have alike."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bncheck.graph.dataflow import Dim
from bncheck.graph.specs import Conv, ConvTranspose, Kernel

#: One size for all axes, or one each.
Sizes = int | Sequence[int]
_MULTIPLE = re.compile(r"(?:(\d+)\*)?([A-Za-z_]\w*)")


def conv(
    groups: int,
    kernel: Sequence[Dim],
    stride: Sizes,
    dilation: Sizes,
    before: Sizes | None,
    behind: Sizes | None,
) -> Conv:
    """A convolution padded with zeros on either side; None: as many as keep the sizes."""
    if before is None or behind is None:
        pads = set(kernel) != {1}
    else:
        pads = any(size != 0 for side in (before, behind) for size in each(side, 1))
    even = before == behind
    centre = _centre(kernel, stride, dilation, before) if even else None
    return Conv(groups, pads, centre, kernel=sliding(kernel, stride, dilation))


def transposed(
    groups: int,
    kernel: Sequence[Dim],
    stride: Sizes,
    dilation: Sizes,
    plain: bool,
    sized: bool = False,
) -> ConvTranspose:
    """A transposed convolution; `plain`: it neither cuts its result nor adds to it.

    `sized`: it is cut to a size that is given.
    """
    steps = each(stride, len(kernel))
    tiles = plain and steps == list(kernel) and set(each(dilation, 1)) == {1}
    slides = None if sized else sliding(kernel, stride, dilation)
    return ConvTranspose(groups, tiles, tuple(steps), slides)


def sliding(kernel: Sequence[Dim], stride: Sizes, dilation: Sizes) -> Kernel | None:
    """What slides over a map; None where its sizes are not known."""
    sizes = tuple(size for size in kernel if isinstance(size, int))
    steps, gaps = (tuple(each(given, len(sizes))) for given in (stride, dilation))
    known = len(kernel) == len(sizes) == len(steps) == len(gaps)
    return Kernel(sizes, steps, gaps) if known else None


def interpolating(mode: str, factors: Sequence[float]) -> Kernel | None:
    """What makes each place so many places; None for parts of places, which differ by place."""
    taps = {"nearest": 1, "linear": 2, "cubic": 4}.get(mode)
    whole = all(factor >= 1 and factor == int(factor) for factor in factors)
    number = len(factors)
    return Kernel((taps,) * number, (1,) * number, (1,) * number) if taps and whole else None


def _centre(
    kernel: Sequence[Dim], stride: Sizes, dilation: Sizes, padding: Sizes | None
) -> tuple[int, ...] | None:
    """The place of the kernel that reads the very position of the output, None without one."""
    sizes = [size for size in kernel if isinstance(size, int) and size % 2]
    number = len(kernel)
    if len(sizes) != number or set(each(stride, number)) != {1}:
        return None
    needed = [gap * (size // 2) for gap, size in zip(each(dilation, number), sizes, strict=True)]
    if padding is not None and each(padding, number) != needed:
        return None
    return tuple(size // 2 for size in sizes)


def each(value: Sizes, number: int) -> list[int]:
    """`number` sizes, one for each axis, from one for all or one each."""
    items = list(value) if isinstance(value, Sequence) else [value]
    return items * number if len(items) == 1 else items


def multiple(size: Dim) -> tuple[int, str] | None:
    """`4*s0` as 4 and s0."""
    found = _MULTIPLE.fullmatch(str(size))
    return None if found is None else (int(found[1] or 1), found[2])
