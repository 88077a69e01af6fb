"""A scale and a shift for some features of a table, or for each (tables.py), tried on the samples.

What a linear layer's means answer to each feature is seen of one batch: a sample as it is, and once
for each feature with that moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from bncheck.measuring.fitting import TINY, Fitted, with_sign
from bncheck.measuring.tables import FEW, Table, free_of

if TYPE_CHECKING:
    from torch import Tensor

    from bncheck.measuring.fitting import Change, Floats, Stem

#: Features of a table that has more are not fitted one by one.
_FEATURES: Final = 64


def scale_of_features(stem: Stem, x: Tensor) -> Fitted | None:
    """A scale and a shift for some features, or for each, of an input that has few."""
    axis = 1 if x.ndim != 3 or x.shape[1] <= x.shape[2] else 2
    features, layer = x.shape[axis], stem.layer
    if x.ndim > 3 or not 1 < features <= _FEATURES or layer.statistics is None:
        return None
    rows = x.movedim(axis, -1).reshape(-1, features).double()
    steps = rows.std(dim=0).clamp_min(TINY)
    (base,) = stem.seen(x, [lambda x: x])
    # Of a linear layer one sample answers as all do; one that is not is refused by its variances.
    means = stem.of_each(_moved(x[:1], axis, steps))
    if base is None or means is None:
        return None
    answers = (means[1:] - means[0]).T / steps.cpu().numpy()
    table = Table(answers, np.cov(rows.cpu().numpy().T, ddof=0), base, layer)
    found = table.fitted() if table.is_linear else None
    if found is None:
        return None
    chosen, scales, shifts = found
    center = rows.mean(dim=0).cpu().numpy()
    offsets = center + shifts - scales * center
    words = "each feature on a scale of its own"
    if len(chosen) <= FEW:
        words = ", ".join(f"feature {j} * {with_sign(scales[j], offsets[j])}" for j in chosen)
    free = free_of(len(chosen), features)
    return Fitted(words, _scaled_features(axis, scales, offsets), free)


def _moved(x: Tensor, axis: int, steps: Tensor) -> Tensor:
    """A sample, (1, ...), as it is, and with each of its features moved by its step."""
    import torch

    features = len(steps)
    shape = [features, *[1] * (x.ndim - 1)]
    shape[axis] = features
    return torch.cat([x, x + torch.diag(steps).to(x.dtype).reshape(shape)])


def _scaled_features(axis: int, scales: Floats, offsets: Floats) -> Change:
    import torch

    def change(x: Tensor) -> Tensor:
        shape = [1] * x.ndim
        shape[axis] = -1
        a, b = (torch.from_numpy(v).to(x.device, x.dtype).reshape(shape) for v in (scales, offsets))
        return a * x + b

    return change
