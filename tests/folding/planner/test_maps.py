"""How maps pass reshapes, and where they are stuck."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bncheck.folding.algebra import Affine
from bncheck.folding.planner.maps import Stuck, constant_along, merged, settled
from bncheck.folding.planner.reshaping import reshaped


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((2, 6, 4, 5), (2, 6, 20)),
        ((2, 6, 4, 5), (2, 3, 2, 4, 5)),
        ((2, 6, 4, 5), (2, 120)),
        ((2, 6, 4, 5), (12, 4, 5)),
        ((2, 6, 1, 1), (2, 6)),
        ((2, 1, 6), (2, 6, 1)),
        ((2, 6), (2, 6, 1, 1)),
        ((2, 6, 4), (2, 4, 6)),
    ],
)
def test_a_map_is_reshaped_as_its_tensor_is(source: tuple[int, ...], target: Sequence[int]) -> None:
    channels = np.arange(1.0, 1 + source[1 if source[1] > 1 else 2])
    axis = 1 if source[1] > 1 else 2
    sizes = [1] * len(source)
    sizes[axis] = -1
    small = channels.reshape(sizes)
    expected = np.broadcast_to(small, source).reshape(target)
    result = reshaped(small, source, tuple(target))
    assert np.array_equal(np.broadcast_to(result, target), expected)


def test_a_free_batch_stays_apart() -> None:
    channels = np.arange(6.0).reshape(1, 6, 1, 1)
    assert reshaped(channels, ("n", 6, 4, 5), ("n", 6, 20)).shape == (1, 6, 1)
    assert reshaped(channels, ("n", 6, 4, 5), ("n", 120)).shape == (1, 120)
    with pytest.raises(Stuck):
        reshaped(channels, ("n", 6, 4, 5), ("6*n", 4, 5))
    with pytest.raises(Stuck):
        reshaped(channels, ("n", 6, "h", 5), ("n", "h", 6, 5))


def test_unused_numbers_are_free() -> None:
    array = np.array([[1.0, np.nan, 1.0], [2.0, 2.0, 3.0]])
    assert constant_along(array[:1], (1,)) == 1.0
    assert constant_along(array, (1,)) is None
    first = Affine(np.array([1.0, np.nan]), np.array([0.0, np.nan]))
    second = Affine(np.array([np.nan, 3.0]), np.array([np.nan, 4.0]))
    both = merged(first, second)
    assert both is not None
    assert (both.scale.tolist(), both.shift.tolist()) == ([1.0, 3.0], [0.0, 4.0])
    assert settled(first).scale.tolist() == [1.0, 1.0]
    assert merged(both, Affine(np.array([1.0, 2.0]), np.array([0.0, 4.0]))) is None
