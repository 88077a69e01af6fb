"""Which Einstein sums are a product with a matrix, checked by numpy's own einsum."""

from __future__ import annotations

import numpy as np
import pytest

from bncheck.graph.products import einsum_spec

_SIZES = {"n": 2, "c": 3, "o": 4, "h": 5}


@pytest.mark.parametrize(
    "equation",
    [
        "nc,co->no",
        "nc,oc->no",
        "nc,co",
        "...c,oc->...o",
        "...ch,co->...oh",
        "nch,co->nho",
        "nc,no->co",
        "cn,co",
    ],
)
def test_a_product_with_a_matrix(equation: str) -> None:
    spec = einsum_spec(equation, 1)
    assert spec is not None
    data, matrix = equation.partition("->")[0].split(",")
    rng = np.random.default_rng(0)
    x, w = (
        rng.normal(size=[_SIZES[letter] for letter in term.replace("...", "n")])
        for term in (data, matrix)
    )
    weight = w if spec.output_first else w.T
    product = np.moveaxis(np.moveaxis(x, spec.axes[0], -1) @ weight.T, -1, spec.axes[1])
    np.testing.assert_allclose(product, np.einsum(equation, x, w))


@pytest.mark.parametrize("equation", ["nc,cc->nc", "nch,hco->no", "n...c,co->n...o", "nc,c->n"])
def test_any_other_sum_is_none(equation: str) -> None:
    assert einsum_spec(equation, 1) is None
