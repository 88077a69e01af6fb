"""Which products are one with a weight, and what their kernels do, checked by numpy's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from bncheck.folding.algebra import Affine, Kernel
from bncheck.graph.linear import Linear
from bncheck.graph.products import Operand, einsum, einsum_spec, product, tensordot

_SIZES = {"n": 2, "c": 3, "o": 4, "h": 5, "d": 2}


def _check(spec: Linear, run: Callable[..., Any], x: Any, w: Any) -> None:
    """Maps of the result and of x, carried by the weight and a bias, against numpy's product."""
    rng = np.random.default_rng(1)
    kernel = Kernel.of(spec, w, None)

    def random_map(shape: Sequence[int], axes: Sequence[int]) -> tuple[Affine, Affine]:
        """As the vectors that a kernel takes, and as arrays over the value."""
        sizes = [shape[axis] for axis in axes]
        vectors = Affine(*rng.normal(size=(2, math.prod(sizes))))
        order: Any = np.argsort([axis % len(shape) for axis in axes]) if axes else []
        wide = [shape[i] if i - len(shape) in axes else 1 for i in range(len(shape))]
        arrays = (v.reshape(sizes).transpose(order).reshape(wide)
                  for v in (vectors.scale, vectors.shift))  # fmt: skip
        return vectors, Affine(*arrays)

    def result(changed: Kernel) -> Any:
        bias = changed.laid_out_bias(spec, w.shape)
        return run(x, changed.laid_out(spec, w.shape)) + (0 if bias is None else bias)

    y = run(x, w)
    np.testing.assert_allclose(result(kernel), y)
    vectors, map_ = random_map(y.shape, spec.outputs)
    np.testing.assert_allclose(result(kernel.after(vectors)), y * map_.scale + map_.shift)
    vectors, map_ = random_map(x.shape, spec.inputs)
    expected = run(x * map_.scale + map_.shift, w)
    np.testing.assert_allclose(result(kernel.before(vectors)), expected)


def _values(*shapes: Sequence[int]) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in shapes]


@pytest.mark.parametrize(
    "equation",
    [
        "nc,co->no", "nc,oc->no", "nc,co", "...c,oc->...o", "...ch,co->...oh", "nch,co->nho",
        "nc,no->co", "cn,co", "nch,hco->no", "nc,c->n", "nch,cod->nodh", "nhc,hco->nho",
        "nch,hco->noh", "nch,hc->nch", "nch,nch->", "nhcd,hdo->nco", "n...c,co->n...o",
        "...c,...co->...o", "n...c,...co", "c...,oc...->o...",
    ],
)  # fmt: skip
def test_a_product_with_a_weight(equation: str) -> None:
    terms = equation.partition("->")[0].replace("...", "hd").split(",")
    spec = einsum_spec(equation, 1, [len(term) for term in terms])
    assert spec is not None
    x, w = _values(*([_SIZES[letter] for letter in term] for term in terms))
    _check(spec, lambda a, b: np.einsum(equation, a, b), x, w)


@pytest.mark.parametrize(
    "equation",
    ["nc,cc->nc", "nch,co->no", "nc,cod->no", "nch,co->hno", "nc,c...->n", "nc,co,co->no", "nc"],
)
def test_any_other_sum_is_none(equation: str) -> None:
    terms = equation.partition("->")[0].replace("...", "hd").split(",")
    assert einsum_spec(equation, 1, [len(term) for term in terms]) is None


@pytest.mark.parametrize("ranks", [(1, 2), (3, 2), (2, 3), (2,)])
def test_an_equation_that_does_not_fit_is_none(ranks: Sequence[int]) -> None:
    assert einsum_spec("nc,co->no", 1, ranks) is None


def test_axes_of_size_1_that_an_ellipsis_repeats_are_none() -> None:
    assert einsum("...c,...co->...o", [Operand((2, 3), False), Operand((1, 3, 4), True)]) is None


@pytest.mark.parametrize(
    ("x", "w"),
    [
        ((2, 3), (3, 4)), ((3,), (3, 4)), ((2, 3), (3,)), ((2, 5, 3), (1, 3, 4)),
        ((2, 5, 3), (2, 3, 4)), ((5, 3), (2, 3, 4)), ((2, 1, 5, 3), (4, 3, 6)),
        ((3,), (2, 3, 4)), ((2, 4, 5, 3), (4, 3, 6)), ((2, 4, 5, 3), (2, 1, 3, 6)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("first", [False, True])
def test_matmul(x: tuple[int, ...], w: tuple[int, ...], first: bool) -> None:
    if first:
        x, w = ((*s[:-2], *s[:-3:-1]) for s in (x, w))
    operands = [Operand(x, False), Operand(w, True)]
    found = product(operands[::-1] if first else operands)
    assert found is not None
    spec, place = found
    assert place == (not first)
    _check(spec, (lambda a, b: np.matmul(b, a)) if first else np.matmul, *_values(x, w))


def test_a_repeated_axis_whose_size_is_not_known_is_none() -> None:
    assert product([Operand(("n", 5, 3), False), Operand((2, 3, 4), True)]) is None
    assert product([Operand(("n", 5, 3), False), Operand((1, 3, 4), True)]) is not None
    assert einsum("nhc,hco->nho", [Operand((2, 5, 3), False), Operand((1, 3, 4), True)]) is None


@pytest.mark.parametrize("weight", [0, 1])
def test_tensordot(weight: int) -> None:
    shapes: list[tuple[int, ...]] = [(2, 3, 4), (4, 3, 5)]
    axes = [[1, 2], [1, 0]]
    found = tensordot(axes, [Operand(s, i == weight) for i, s in enumerate(shapes)])
    assert found is not None
    assert found[1] == weight
    x, w = _values(shapes[1 - weight], shapes[weight])

    def run(a: Any, b: Any) -> Any:
        return np.tensordot(*((a, b) if weight else (b, a)), (axes[0], axes[1]))

    _check(found[0], run, x, w)
