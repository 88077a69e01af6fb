"""A pass over the data is the same each time, and leaves the generators of its source alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from bncheck.data import open_data

SAMPLES = TensorDataset(torch.arange(64.0)[:, None])


class Own(Sampler[int]):
    """A sampler with a generator of its own."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        places = list(range(64))
        self.generator.shuffle(places)
        return iter(places)

    def __len__(self) -> int:
        return 64


class Augmented(Dataset[Tensor]):
    """Noise by a generator of the data set's, or by everybody's."""

    def __init__(self, draw: Callable[[], float], generator: Any = None) -> None:
        self.draw, self.generator = draw, generator

    def __getitem__(self, place: int) -> Tensor:
        return torch.tensor([place + self.draw()])

    def __len__(self) -> int:
        return 64


def of_torch() -> tuple[object, Callable[[], object]]:
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(SAMPLES, 16, shuffle=True, generator=generator)
    return loader, lambda: generator.get_state().tolist()


def of_numpy() -> tuple[object, Callable[[], object]]:
    generator = np.random.default_rng(5)
    return DataLoader(SAMPLES, 16, sampler=Own(generator)), lambda: generator.bit_generator.state


def of_old_numpy() -> tuple[object, Callable[[], object]]:
    generator = np.random.RandomState(5)
    loader = DataLoader(SAMPLES, 16, sampler=Own(generator))
    return loader, lambda: generator.get_state(legacy=False)["state"]["key"].tolist()


def of_python() -> tuple[object, Callable[[], object]]:
    generator = random.Random(5)
    return Augmented(generator.random, generator), generator.getstate


def of_everybody() -> tuple[object, Callable[[], object]]:
    """Numbers of NumPy's and Python's shared generators."""
    data = Augmented(lambda: random.random() + np.random.rand())
    return data, lambda: (
        random.getstate(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),
    )


@pytest.mark.parametrize("made", [of_torch, of_numpy, of_old_numpy, of_python, of_everybody])
def test_passes_are_alike(made: Callable[[], tuple[Any, Callable[[], object]]]) -> None:
    source, state = made()
    before, batches = state(), open_data(source, None)
    first, second = (torch.cat([batch.args[0] for batch in batches]) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, first.sort(dim=0).values.floor())
    assert state() == before
    for batch in batches:  # one that is left early
        assert batch.size
        break
    assert state() == before
