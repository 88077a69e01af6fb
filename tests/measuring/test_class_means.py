"""What classes are in layers, over the batches of two ranks, which are threads here."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from bncheck.measuring import class_means
from bncheck.measuring.class_means import Classes, ClassMeans, of_all_ranks
from bncheck.measuring.distributed import Processes
from bncheck.measuring.wire import Wire

LAYOUT = (("first", 2), ("second", 3))


def classes(images: range, pivot: float = 0.0) -> ClassMeans:
    """Of some of 60 images, whose classes lie far apart, about any pivot."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 5 * (torch.arange(60) > 9)  # the first ten are of one class
    means = torch.randn(60, 5, generator=generator, dtype=torch.float64) + 10 * labels[:, None]
    squares = means**2 + torch.rand(60, 5, generator=generator, dtype=torch.float64)
    found, place = ClassMeans(), list(images)
    m, q = means - pivot, squares - 2 * pivot * means + pivot**2
    found.add(LAYOUT, m[place], q[place], labels[place], np.full(5, pivot))
    return found


def of_two(first: ClassMeans, second: ClassMeans) -> list[Classes]:
    pair = socket.socketpair()
    wires = (Wire(0, {1: pair[0]}, 10.0), Wire(1, {0: pair[1]}, 10.0))
    ranks = [Processes(rank, 2, wire) for rank, wire in enumerate(wires)]
    mine = [first.by_layer(), second.by_layer()]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(of_all_ranks, mine, ranks))


@pytest.mark.parametrize("split", [10, 31])
def test_classes_of_two_ranks_are_those_of_all_images(split: int) -> None:
    alone = classes(range(60)).by_layer()
    for found in of_two(classes(range(split)), classes(range(split, 60), pivot=3.0)):
        assert list(found) == ["first", "second"]
        for layer, known in alone.items():
            assert list(found[layer]) == list(known) == [0, 1, 2, 3, 4]
            for label, one in known.items():
                other = found[layer][label]
                assert other.images == one.images
                np.testing.assert_allclose(other.mean, one.mean, rtol=1e-12, atol=1e-12)
                np.testing.assert_allclose(other.var, one.var, rtol=1e-10)


def test_a_rank_without_batches_is_given_the_others() -> None:
    found = of_two(classes(range(60)), ClassMeans())
    assert [list(one["second"]) for one in found] == [[0, 1, 2, 3, 4]] * 2


def test_too_many_numbers_are_sent_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_means, "_MOST_NUMBERS", 59)
    assert of_two(classes(range(10)), classes(range(10, 60))) == [{}, {}]
    assert of_two(classes(range(10)), classes(range(10)))[0]
