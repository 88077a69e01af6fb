"""The pixel shuffle behind a tiling convolution (algebra.Kernel.as_tiles), as moves of axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def moves(tile: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
    """(N, C*r*s, H, W) -> (N, C, H*r, W*s), in any number of dimensions and of any size.

    As ("Transpose", order) and ("Reshape", shape). Sizes need not be known: a 0 in a shape copies
    the size at that place, so axes are brought to where theirs can be copied, and pairs are joined
    at the end, where one -1 is enough.
    """
    dims = len(tile)
    yield "Transpose", [0, *range(2, dims + 2), 1]  # (N, H, W, C*r*s)
    yield "Reshape", [0] * (dims + 1) + [-1, *tile]  # (N, H, W, C, r, s)
    pairs = [axis for i in range(dims) for axis in (i + 1, i + dims + 2)]
    yield "Transpose", [0, dims + 1, *pairs]  # (N, C, H, r, W, s)
    for rank in range(2 * dims + 1, dims + 1, -1):
        yield "Reshape", [0] * (rank - 1) + [-1]  # (N, C, H, r, W*s)
        if rank > 3:
            yield "Transpose", [0, 1, rank - 1, *range(2, rank - 1)]  # (N, C, W*s, H, r)
