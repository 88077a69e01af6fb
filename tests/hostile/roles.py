"""Layers with two tensors for one role, or with tensors that are none: who takes which?

Each is built as a file of torch, as safetensors, and (where the names are what counts) as others.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from tests.hostile.case import FOUND, REFUSED, add, saved
from tests.zoo.states import State, statistics

_BAD = -torch.ones(4)
_COVARIANCE = torch.eye(2).repeat(4, 1, 1)


def _safetensors(folder: Path, state: State) -> Path:
    safetensors.torch.save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


def _with(changes: dict[str, Tensor | None]) -> State:
    state = {**statistics(), **{f"bn{name}": tensor for name, tensor in changes.items()}}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


def _torch(folder: Path, state: State) -> Path:
    return saved(folder, state)


_WRITERS = {"torch": _torch, "safetensors": _safetensors}

#: What is changed in a sound layer, which is the right exit code, and what it is called.
_LAYERS: tuple[tuple[str, frozenset[int], dict[str, Tensor | None]], ...] = (
    ("keras", REFUSED, {".moving_variance": _BAD}),
    ("paddle", REFUSED, {"._variance": _BAD}),
    ("slash", REFUSED, {"/running_var": _BAD}),
    ("two-means", REFUSED, {".moving_mean": _BAD}),
    ("gamma", REFUSED, {".gamma": _BAD}),
    (
        "two-counters",
        REFUSED,
        {".num_batches_tracked": torch.tensor(3), "/num_batches_tracked": torch.tensor(4)},
    ),
    ("complex-variance", REFUSED, {".running_var": torch.complex(_BAD, _BAD)}),
    ("complex-mean", REFUSED, {".running_mean": torch.complex(_BAD, _BAD)}),
    ("complex-bias", REFUSED, {".bias": torch.complex(_BAD, _BAD)}),
    ("complex-weight", REFUSED, {".weight": torch.complex(_BAD, _BAD)}),
    ("boolean-variance", REFUSED, {".running_var": _BAD > 0}),
    ("empty", FOUND, {".running_var": torch.zeros(0), ".running_mean": torch.zeros(0)}),
    ("empty-variance", FOUND, {".running_var": torch.zeros(0)}),
    ("bad-beside-covariance", FOUND, {".running_var": _BAD, ".running_covar": _COVARIANCE}),
    ("nan-in-covariance", FOUND, {".running_var": None, ".running_covar": _COVARIANCE * torch.nan}),
    ("nan-in-one-without-dots", FOUND, {"running_var": _BAD * torch.nan}),
    ("nan-in-one-behind-a-bar", FOUND, {"|running_var": _BAD * torch.nan}),
    ("nan-in-a-misspelt-one", FOUND, {".Running_Var": _BAD * torch.nan}),
)
for _name, _codes, _changes in _LAYERS:
    for _kind, _write in _WRITERS.items():
        add(f"roles-{_name}-{_kind}", _codes, f"a layer with {_name.replace('-', ' ')}",
            partial(_write, state=_with(_changes)))  # fmt: skip


class _Doubtful(nn.BatchNorm2d):
    """Which of its two variances does it use?"""

    def __init__(self) -> None:
        super().__init__(4)
        self.register_buffer("moving_variance", _BAD)


add("roles-in-a-module", REFUSED, "a pickled module with two variances",
    lambda folder: saved(folder, _Doubtful()))  # fmt: skip
add("roles-complex-relative", REFUSED, "complex normalisation: a complex mean and a covariance",
    lambda folder: saved(folder, _with({".running_mean": torch.complex(_BAD, _BAD),
    ".running_var": None, ".running_covar": _COVARIANCE})))  # fmt: skip
