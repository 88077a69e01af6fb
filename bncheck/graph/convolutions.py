"""Convolutions by their settings, which torch and ONNX have alike."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bncheck.graph.dataflow import Dim
from bncheck.graph.specs import Conv, ConvTranspose

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
    return Conv(groups, pads, _centre(kernel, stride, dilation, before) if even else None)


def transposed(
    groups: int, kernel: Sequence[Dim], stride: Sizes, dilation: Sizes, plain: bool
) -> ConvTranspose:
    """A transposed convolution; `plain`: it neither cuts its result nor adds to it."""
    steps = each(stride, len(kernel))
    tiles = plain and steps == list(kernel) and set(each(dilation, 1)) == {1}
    return ConvTranspose(groups, tiles, tuple(steps))


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
