"""scikit-learn's digits, standardised and split."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

# Pixels are 0..16. These are the mean and the standard deviation of the training pixels over 16.
MEAN, STD = 0.3054, 0.3760
TRAINING_IMAGES = 1437
SPLIT_SEED = 0

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Digits:
    """The images, standardised, and the labels."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def standardised_digits() -> Digits:
    raw = load_digits()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(raw.target))
    train, test = order[:TRAINING_IMAGES], order[TRAINING_IMAGES:]
    x = torch.from_numpy(((raw.images / 16 - MEAN) / STD).astype(np.float32)).unsqueeze(1)
    y = torch.from_numpy(raw.target.astype(np.int64))
    return Digits(x[train], y[train], x[test], y[test])


def shuffled(x: Tensor, y: Tensor, batch_size: int) -> Iterator[Batch]:
    """One epoch of full batches; the incomplete last one is dropped."""
    order = torch.randperm(len(x))
    for start in range(0, len(x) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        yield x[chosen], y[chosen]
