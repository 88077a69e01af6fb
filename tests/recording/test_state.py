"""What a digest tells of the weights of a model."""

from __future__ import annotations

import torch
from torch import nn

from bncheck.recording.state import Weights


def test_a_weight_that_is_replaced_is_another_weight() -> None:
    """Views of the old one would go on to tell of it."""
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    weights = Weights(model)
    before = weights.digest()
    assert weights.digest() == before
    model[1].weight.data = torch.zeros(2, 4)
    after = weights.digest()
    assert after != before
    model[1].weight.data[1] = float("nan")
    assert weights.digest()[0] != after[0]
    assert weights.digest()[1] == "1.weight"
