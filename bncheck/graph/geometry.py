"""Where the windows of a convolution lie."""

from __future__ import annotations

from collections.abc import Sequence


def centre_of(
    kernel: Sequence[int],
    stride: int | Sequence[int],
    dilation: int | Sequence[int],
    padding: int | Sequence[int] | None,
) -> tuple[int, ...] | None:
    """The place of the kernel that reads the very position of the output, None without one.

    `padding` is that before each axis, as much as behind it; None: as much as keeps the sizes.
    """
    number = len(kernel)
    odd = all(size % 2 for size in kernel)
    if not odd or set(_each(stride, number)) != {1}:
        return None
    needed = [gap * (size // 2) for gap, size in zip(_each(dilation, number), kernel, strict=True)]
    if padding is not None and _each(padding, number) != needed:
        return None
    return tuple(size // 2 for size in kernel)


def _each(value: int | Sequence[int], number: int) -> list[int]:
    items = [value] if isinstance(value, int) else list(value)
    return items * number if len(items) == 1 else items
