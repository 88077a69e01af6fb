"""The algebra against NumPy in float64 over the concatenated data, for any split."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bncheck.measuring.moments import (
    Moments,
    about,
    merged_all,
    of_images,
    packed,
    packed_vectors,
    unpack,
)

Floats = NDArray[np.float64]


def moments_of(x: Floats, pivot: Floats) -> Moments:
    """x is (images, channels, values)."""
    deviation = x - pivot[:, None]
    return of_images(deviation.mean(axis=2), (deviation**2).mean(axis=2), x.shape[2], pivot)


def merge_all(parts: list[Moments]) -> Moments:
    return unpack(merged_all([part.pack() for part in parts]))


def assert_close(actual: Floats | float, expected: Floats | float, scale: Floats | float) -> None:
    np.testing.assert_array_less(np.abs(np.asarray(actual) - expected), 1e-12 * scale + 1e-300)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Floats], Floats]:
    """Batches of one shape, off by up to 1e4 standard deviations, and a pivot near the mean."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    channels, values = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=6))
    offset = rng.normal(size=channels) * draw(st.sampled_from([0.0, 1.0, 1e4]))
    scale = 10.0 ** rng.uniform(-2, 2, channels)
    parts = [
        (rng.normal(size=(n, channels, values)) + offset[:, None]) * scale[:, None] for n in sizes
    ]
    return parts, parts[0].mean(axis=(0, 2))


@given(batches())
def test_merged_moments_are_those_of_the_concatenated_data(
    case: tuple[list[Floats], Floats],
) -> None:
    parts, pivot = case
    merged = merge_all([moments_of(part, pivot) for part in parts])
    x = np.concatenate(parts) - pivot[:, None]  # NumPy, too, is exact only about a pivot
    var = x.var(axis=(0, 2))
    spread = np.abs(x).max(axis=(0, 2)) ** 2
    # The mean is a float64 number itself: it lies between two that are a spacing apart.
    rounding = np.spacing(np.abs(pivot)) / 1e-12
    assert_close(merged.mean - pivot, x.mean(axis=(0, 2)), np.sqrt(spread) * 10 + rounding)
    assert_close(merged.var, var, spread * 10)
    assert merged.images == len(x)
    assert merged.weight == len(x) * x.shape[2]


@given(batches())
def test_variances_between_images_are_numpys(case: tuple[list[Floats], Floats]) -> None:
    parts, pivot = case
    merged = merge_all([moments_of(part, pivot) for part in parts])
    x = np.concatenate(parts) - pivot[:, None]
    if len(x) < 2:
        return
    m, mu = x.mean(axis=2), x.mean(axis=(0, 2))
    q = ((x - mu[:, None]) ** 2).mean(axis=2)
    spread = np.abs(x).max(axis=(0, 2)) ** 2 + mu**2
    assert_close(merged.var_of_means, m.var(axis=0, ddof=1), spread * 10)
    assert_close(merged.var_of_squares, q.var(axis=0, ddof=1), spread**2 * 100)
    within = x.var(axis=2).mean(axis=0)
    assert_close(merged.within, within, spread * 10)


@given(batches(), st.integers(1, 5))
def test_any_split_into_processes_gives_the_same(
    case: tuple[list[Floats], Floats], processes: int
) -> None:
    parts, pivot = case
    single = merge_all([moments_of(part, pivot) for part in parts])
    ranks = [parts[rank::processes] for rank in range(processes)]
    each = [merge_all([moments_of(p, pivot) for p in own]) for own in ranks if own]
    merged = merge_all([unpack(moments.pack()) for moments in each])
    spread = np.abs(np.concatenate(parts) - pivot[:, None]).max(axis=(0, 2)) ** 2
    assert_close(merged.mean_m, single.mean_m, np.sqrt(spread) * 10)
    assert_close(merged.var, single.var, spread * 10)


@given(batches())
def test_all_at_once_is_one_by_one(case: tuple[list[Floats], Floats]) -> None:
    """Also where sets are about other pivots."""
    parts, pivot = case
    each = [moments_of(x, pivot + place % 2 * x.std()) for place, x in enumerate(parts)]
    at_once, one_by_one = merge_all(each), reduce(Moments.merge, each)
    spread = np.abs(np.concatenate(parts) - pivot[:, None]).max() ** 2
    assert (at_once.images, at_once.weight) == (one_by_one.images, one_by_one.weight)
    assert_close(at_once.mean_q, one_by_one.mean_q, spread * 100)
    assert_close(at_once.sum_mm, one_by_one.sum_mm, spread * 1000)
    assert_close(at_once.sum_qq, one_by_one.sum_qq, spread**2 * 10_000)


@pytest.fixture(scope="module")
def tensor() -> Any:
    """What makes a tensor; the other tests need no torch: tests/lower_bounds.py."""
    import torch

    return torch.tensor


@given(batches())
def test_of_single_values_the_squares_need_not_be_told(
    tensor: Any, case: tuple[list[Floats], Floats]
) -> None:
    parts, pivot = case
    m = parts[0][:, :, 0] - pivot
    told, untold = packed(m.copy(), m * m, 1.0, pivot), packed_vectors(tensor(m), pivot)
    size = np.abs(m).max() * 10 + 1e-300
    for row, power in ((4, 1), (5, 2), (6, 2), (7, 4), (8, 3)):
        assert_close(untold[row], told[row], size**power * len(m))
    np.testing.assert_array_equal(untold[:4], told[:4])


def test_fourth_powers_beyond_single_precision_are_taken_in_double(tensor: Any) -> None:
    """Amounts of money or times that were never scaled; their squares are still in its range."""
    m = np.random.default_rng(0).normal(0, [[1.0, 1e12, 1e18]], size=(50, 3)).astype(np.float32)
    found = packed_vectors(tensor(m), np.zeros(3))
    told = packed(m.astype(np.float64), m.astype(np.float64) ** 2, 1.0, np.zeros(3))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[4:], told[4:], rtol=1e-9)


@given(batches())
def test_another_pivot_changes_nothing_but_the_pivot(case: tuple[list[Floats], Floats]) -> None:
    parts, pivot = case
    x = np.concatenate(parts)
    there = pivot + x.std(axis=(0, 2)) + 1.0
    moved, direct = unpack(about(moments_of(x, pivot).pack(), there)), moments_of(x, there)
    spread = np.abs(x - there[:, None]).max(axis=(0, 2)) ** 2
    assert_close(moved.mean_m, direct.mean_m, np.sqrt(spread) * 10)
    assert_close(moved.mean_q, direct.mean_q, spread * 10)
    assert_close(moved.sum_qq, direct.sum_qq, spread**2 * x.shape[0] * x.shape[2] * 100)


@settings(max_examples=20)
@given(batches())
def test_packing_is_lossless(case: tuple[list[Floats], Floats]) -> None:
    moments = moments_of(case[0][0], case[1])
    packed = moments.pack()
    assert unpack(packed).pack().tobytes() == packed.tobytes()


def test_images_of_several_sizes_weigh_by_their_values() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=(3, 2, 4)), rng.normal(3, 2, size=(5, 2, 25))
    pivot = np.zeros(2)
    merged = moments_of(small, pivot).merge(moments_of(large, pivot))
    for channel in range(2):
        values = np.concatenate([small[:, channel].ravel(), large[:, channel].ravel()])
        assert_close(merged.mean[channel], values.mean(), 10.0)
        assert_close(merged.var[channel], values.var(), 100.0)
        assert_close(merged.unbiased_var[channel], values.var(ddof=1), 100.0)
