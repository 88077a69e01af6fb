"""What a layer's own numbers tell: the share of the initial values, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncheck.layers.facts import (
    at_initial_statistics,
    dead_channels,
    initial_share,
    median,
    predicted_w2,
)
from bncheck.layers.norm_layer import Origin, Setting
from tests.networks import healthy_layer


def test_initial_statistics_are_exact() -> None:
    layer = healthy_layer("bn")
    zero, one = np.zeros(layer.channels, np.float32), np.ones(layer.channels, np.float32)
    assert at_initial_statistics(replace(layer, mean=zero, var=one))
    assert not at_initial_statistics(replace(layer, mean=zero, var=np.nextafter(one, 2)))
    assert not at_initial_statistics(layer)
    assert not at_initial_statistics(replace(layer, mean=None))


def test_dead_channels_are_neither_negative_nor_nan() -> None:
    var = np.array([0, 1e-11, 1e-9, -1, np.nan], np.float32)
    layer = replace(healthy_layer("bn"), var=var, mean=var)
    assert dead_channels(layer).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("momentum", "batches", "share"), [(0.1, 10, 0.9**10), (0.5, 3, 0.125), (None, 5, 0), (1, 5, 0)]
)
def test_share_of_the_initial_values(momentum: float | None, batches: int, share: float) -> None:
    layer = replace(
        healthy_layer("bn"), batches=float(batches), momentum=Setting(momentum, Origin.FILE)
    )
    assert initial_share(layer) == pytest.approx(share)


@given(
    momentum=st.floats(0.01, 0.5),
    batches=st.integers(1, 60),
    mean=st.floats(-3, 3),
    var=st.floats(0.1, 9),
)
def test_the_predicted_w2_is_that_of_a_simulated_average(
    momentum: float, batches: int, mean: float, var: float
) -> None:
    """An average of the true moments from 0 and 1 on, against the true moments themselves."""
    running_mean, running_var = 0.0, 1.0
    for _ in range(batches):
        running_mean += momentum * (mean - running_mean)
        running_var += momentum * (var - running_var)
    layer = replace(
        healthy_layer("bn"),
        mean=np.array([running_mean]),
        var=np.array([running_var]),
        batches=float(batches),
        momentum=Setting(momentum, Origin.FILE),
        eps=Setting(1e-5, Origin.FILE),
    )
    sigma = np.sqrt(running_var + 1e-5)
    expected = np.hypot((mean - running_mean) / sigma, np.sqrt(var + 1e-5) / sigma - 1)
    assert predicted_w2(layer, initial_share(layer)) == pytest.approx(expected, rel=1e-3, abs=1e-4)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=9))
def test_the_median_is_numpy_s(numbers: list[float]) -> None:
    assert median(np.array(numbers)) == np.median(numbers)
