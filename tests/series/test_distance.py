"""Distances against scipy and closed forms, and what they must be whatever the numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncheck.series.distance import Statistics, distance, histogram_distance, stacked


@pytest.fixture(scope="module")
def stats() -> Any:
    """Imported by the worker that runs these tests and not by all: it takes a second."""
    from scipy import stats

    return stats


FLOATS = st.floats(-50, 50, width=32)
SPREADS = st.floats(0.0625, 50, width=32)


def one(mean: float, sd: float) -> Statistics:
    return Statistics(np.array([mean], np.float32), np.array([sd**2], np.float32), 0.0)


@given(m1=FLOATS, s1=SPREADS, m2=FLOATS, s2=SPREADS)
def test_w2_of_normal_distributions_is_their_wasserstein_distance(
    stats: Any, m1: float, s1: float, m2: float, s2: float
) -> None:
    """W2^2 = integral over u of (F^-1(u) - G^-1(u))^2, in the reference's units."""
    u = (np.arange(4000) + 0.5) / 4000
    gap = stats.norm.ppf(u, m1, s1) - stats.norm.ppf(u, m2, s2)
    expected = math.sqrt(float(np.mean(gap**2))) / s1
    assert float(distance(one(m1, s1), one(m2, s2)).w2) == pytest.approx(
        expected, rel=5e-3, abs=2e-3
    )


@given(FLOATS, SPREADS, FLOATS, SPREADS, FLOATS, st.floats(0.125, 16))
def test_units_do_not_matter(
    m1: float, s1: float, m2: float, s2: float, shift: float, scale: float
) -> None:
    before = distance(one(m1, s1), one(m2, s2))
    after = distance(one(m1 * scale + shift, s1 * scale), one(m2 * scale + shift, s2 * scale))
    for ours, theirs in ((before.w2, after.w2), (before.mean_shift, after.mean_shift)):
        assert float(ours) == pytest.approx(float(theirs), rel=1e-3, abs=2e-4 * (1 + abs(shift)))


def test_signs_say_which_lies_higher_and_which_is_wider() -> None:
    found = distance(one(0, 1), one(0.5, 2))
    assert float(found.mean_shift) == pytest.approx(0.5)
    assert float(found.log_variance_ratio) == pytest.approx(math.log(4))


def test_all_snapshots_at_once_are_the_same_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    parts = [
        Statistics(
            rng.normal(size=5).astype(np.float32), rng.uniform(1, 2, 5).astype(np.float32), 1e-5
        )
        for _ in range(4)
    ]
    together = distance(parts[1], stacked([parts[0], None, parts[2], parts[3]]))
    assert np.isnan(together.w2[1])
    for place in (0, 2, 3):
        assert together.w2[place] == distance(parts[1], parts[place]).w2


@given(seed=st.integers(0, 1000), shift=st.floats(-1, 1), scale=st.floats(0.5, 1.5))
def test_w1_of_counts_agrees_with_scipy(stats: Any, seed: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    edges = np.linspace(-4, 4, 65)
    a, b = rng.normal(size=800), rng.normal(size=800) * scale + shift
    counts = [np.histogram(np.clip(x, -3.999, 3.999), edges)[0][None].astype(float) for x in (a, b)]
    expected = stats.wasserstein_distance(np.clip(a, -4, 4), np.clip(b, -4, 4))
    assert histogram_distance(counts[0], counts[1], 0.125)[0] == pytest.approx(expected, abs=0.125)
