"""The formulas against what torch computes, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from bncheck.folding import algebra
from bncheck.folding.algebra import Affine, Kernel, LinearCall
from bncheck.graph.linear import Linear
from bncheck.graph.specs import Conv, ConvTranspose

torch.set_num_threads(1)

_RANDOM = np.random.default_rng(11)


def _numbers(*shape: int) -> Any:
    return _RANDOM.normal(0.3, 1.0, shape)


def _affine(size: int) -> Affine:
    return Affine(_numbers(size), _numbers(size))


def _map(x: torch.Tensor, map_: Affine) -> torch.Tensor:
    sizes = (1, -1, *(1,) * (x.dim() - 2))
    return x * torch.tensor(map_.scale).view(sizes) + torch.tensor(map_.shift).view(sizes)


class _Call:
    """A linear call that torch computes, with its numbers, and with those of another kernel."""

    def __init__(
        self, spec: LinearCall, run: Callable[..., torch.Tensor], weight: Any, bias: Any
    ) -> None:
        self.spec, self.run, self.weight, self.bias = spec, run, weight, bias
        self.kernel = Kernel.of(spec, weight, bias)

    def __call__(self, x: torch.Tensor, kernel: Kernel | None = None) -> torch.Tensor:
        kernel = self.kernel if kernel is None else kernel
        bias = None if kernel.bias is None else torch.tensor(np.array(kernel.bias))
        return self.run(x, torch.tensor(kernel.laid_out(self.spec, self.weight.shape)), bias)

    def check(self, x: torch.Tensor, inputs: int, outputs: int) -> None:
        after, before = _affine(outputs), _affine(inputs)
        torch.testing.assert_close(self(x, self.kernel.after(after)), _map(self(x), after))
        torch.testing.assert_close(self(x, self.kernel.before(before)), self(_map(x, before)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions(groups: int, bias: bool) -> None:
    def run(x: torch.Tensor, weight: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        return F.conv2d(x, weight, b, groups=groups)

    weight = _numbers(6, 4 // groups, 3, 2)
    conv = _Call(Conv(groups, False), run, weight, _numbers(6) if bias else None)
    conv.check(torch.tensor(_numbers(2, 4, 6, 6)), 4, 6)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_with_a_map_beside(groups: int) -> None:
    def run(x: torch.Tensor, weight: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        return F.conv2d(x, weight, b, groups=groups, padding=(1, 0))

    x, map_ = torch.tensor(_numbers(2, 4, 6, 6)), _affine(4)
    conv = _Call(Conv(groups, True), run, _numbers(4, 4 // groups, 3, 1), None)
    torch.testing.assert_close(conv(x, conv.kernel.beside(map_, 1)), conv(x) + _map(x, map_))


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions(groups: int) -> None:
    def run(x: torch.Tensor, weight: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        return F.conv_transpose2d(x, weight, b, stride=2, groups=groups)

    x = torch.tensor(_numbers(2, 4, 5, 5))
    conv = _Call(
        ConvTranspose(groups, True, (2, 2)), run, _numbers(4, 3, 2, 2), _numbers(3 * groups)
    )
    after, before = _affine(3 * groups), _affine(4)
    torch.testing.assert_close(conv(x, conv.kernel.after(after)), _map(conv(x), after))
    scale = Affine(before.scale, np.zeros(4))
    torch.testing.assert_close(conv(x, conv.kernel.before(scale)), conv(_map(x, scale)))
    tiles = conv.kernel.as_tiles().before(before)
    weight = torch.tensor(tiles.laid_out(Conv(groups, False), (-1, 4 // groups, 1, 1)))
    shuffled = F.pixel_shuffle(F.conv2d(x, weight, torch.tensor(tiles.bias), groups=groups), 2)
    torch.testing.assert_close(shuffled, conv(_map(x, before)))


@pytest.mark.parametrize("output_first", [True, False])
def test_matrices(output_first: bool) -> None:
    def run(x: torch.Tensor, weight: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        return F.linear(x, weight if output_first else weight.T, b)

    # A size that tells no side from the other.
    product = _Call(Linear.matrix(output_first=output_first), run, _numbers(5, 5), _numbers(5))
    x, map_ = torch.tensor(_numbers(3, 5)), _affine(5)
    product.check(x, 5, 5)
    beside = product.kernel.beside(map_, 0)
    torch.testing.assert_close(product(x, beside), product(x) + _map(x, map_))


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
