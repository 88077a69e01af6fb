"""The formulas against what torch computes, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from bncheck.folding import algebra

torch.set_num_threads(1)

_RANDOM = np.random.default_rng(11)


def _numbers(*shape: int) -> Any:
    return _RANDOM.normal(0.3, 1.0, shape)


def _map(x: torch.Tensor, scale: Any, shift: Any) -> torch.Tensor:
    sizes = (1, -1, *(1,) * (x.dim() - 2))
    return x * torch.tensor(scale).view(sizes) + torch.tensor(shift).view(sizes)


def _run(call: Callable[..., torch.Tensor], x: torch.Tensor, w: algebra.Weights) -> torch.Tensor:
    bias = None if w.bias is None else torch.tensor(np.array(w.bias))
    return call(x, torch.tensor(np.array(w.weight)), bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions(groups: int, bias: bool) -> None:
    x = torch.tensor(_numbers(2, 4, 6, 6))
    w = algebra.Weights(_numbers(6, 4 // groups, 3, 2), _numbers(6) if bias else None)

    def conv(x: torch.Tensor, weight: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        return F.conv2d(x, weight, b, groups=groups)

    scale, shift = _numbers(6), _numbers(6)
    after = algebra.conv_after(w, scale, shift)
    torch.testing.assert_close(_run(conv, x, after), _map(_run(conv, x, w), scale, shift))
    scale, shift = _numbers(4), _numbers(4)
    before = algebra.conv_before(w, groups, scale, shift)
    torch.testing.assert_close(_run(conv, x, before), _run(conv, _map(x, scale, shift), w))


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions(groups: int) -> None:
    x = torch.tensor(_numbers(2, 4, 5, 5))
    w = algebra.Weights(_numbers(4, 3, 2, 2), _numbers(3 * groups))

    def conv(x: torch.Tensor, weight: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        return F.conv_transpose2d(x, weight, b, stride=2, groups=groups)

    def tiles(x: torch.Tensor, weight: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        return F.pixel_shuffle(F.conv2d(x, weight, b, groups=groups), 2)

    scale, shift = _numbers(3 * groups), _numbers(3 * groups)
    after = algebra.transposed_after(w, groups, scale, shift)
    torch.testing.assert_close(_run(conv, x, after), _map(_run(conv, x, w), scale, shift))
    scale, shift = _numbers(4), _numbers(4)
    expected = _run(conv, _map(x, scale, np.zeros(4)), w)
    torch.testing.assert_close(_run(conv, x, algebra.transposed_before(w, scale)), expected)
    shuffled = algebra.tiling_as_conv(w, groups, scale, shift)
    torch.testing.assert_close(_run(tiles, x, shuffled), _run(conv, _map(x, scale, shift), w))


@pytest.mark.parametrize("output_first", [True, False])
def test_matrices(output_first: bool) -> None:
    x = torch.tensor(_numbers(3, 5))
    w = algebra.Weights(_numbers(5, 5), _numbers(5))  # a size that tells no side from the other

    def run(x: torch.Tensor, weight: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        return F.linear(x, weight if output_first else weight.T, b)

    scale, shift = _numbers(5), _numbers(5)
    after = algebra.linear_after(w, output_first, scale, shift)
    torch.testing.assert_close(_run(run, x, after), _map(_run(run, x, w), scale, shift))
    before = algebra.linear_before(w, output_first, scale, shift)
    torch.testing.assert_close(_run(run, x, before), _run(run, _map(x, scale, shift), w))


def test_a_cast_rounds_once_flushes_subnormals_and_tells_of_infinities() -> None:
    numbers = np.array([1.0, 1e-40, -1e-40, 1.0 + 2**-25])
    cast = algebra.cast(numbers, "float32")
    assert cast.array.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert (cast.flushed, cast.overflows) == (2, False)
    assert algebra.cast(np.array([7e4]), "float16").overflows
    assert not algebra.cast(np.array([7e4]), "bfloat16").overflows


def test_scaling_multiplies_in_float64() -> None:
    weight = np.full(3, 60000.0, np.float16)
    assert algebra.scaled(weight, np.full(3, 0.5), "float16").array.tolist() == [30000.0] * 3
    assert algebra.scaled(weight, np.full(3, 2.0), "float16").overflows
