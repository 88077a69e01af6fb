"""The shares of classes that statistics are a mixture of."""

from __future__ import annotations

import numpy as np

from bncheck.rules.data.class_mixture import simplex_least_squares


def test_shares_of_classes_that_are_nearly_alike_are_found() -> None:
    """As a running average of sorted batches leaves them: each class before weighs less."""
    chance = np.random.default_rng(0)
    classes = chance.standard_normal((64, 1)) + 0.02 * chance.standard_normal((64, 10))
    shares = 0.7 ** np.arange(10)
    shares /= shares.sum()
    found = simplex_least_squares(classes, classes @ shares)
    np.testing.assert_allclose(found, shares, atol=0.005)


def test_shares_are_of_a_simplex() -> None:
    found = simplex_least_squares(np.eye(3), np.array([2.0, -1.0, 0.0]))
    np.testing.assert_allclose(found, [1, 0, 0], atol=1e-9)


def test_shares_are_exact_once_it_is_known_which_are_above_0() -> None:
    """Steps alone come within 1e-7 of them, where columns are on very different scales."""
    chance = np.random.default_rng(0)
    classes = chance.normal(size=(64, 5)) * np.array([1, 3, 10, 30, 100.0])
    shares = np.array([0.5, 0.3, 0.0, 0.2, 0.0])
    found = simplex_least_squares(classes, classes @ shares)
    np.testing.assert_allclose(found, shares, rtol=0, atol=1e-12)
