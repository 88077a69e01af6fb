"""Normalisation layers of every kind, in zip files of torch.save."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tests.zoo.layout import Layout, Settings, layout, silent
from tests.zoo.states import arrays, randomize, state, zipped


@layout
def norms_of_every_kind_as_state_dict(folder: Path) -> Layout:
    """Without a module only statistics tell: GroupNorm and LayerNorm must not be guessed."""
    expected = dict(_norms().state_dict())
    tracked = silent(["plain", "bare", "sync", "instance", "frozen"])
    return zipped(folder, expected, expected, layers=tracked)


class FrozenBatchNorm2d(nn.Module):
    """As in torchvision and detectron2: four buffers, no counter, no momentum."""

    def __init__(self, channels: int, eps: float = 2e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))


def _norms() -> nn.ModuleDict:
    norms = nn.ModuleDict(
        {
            "plain": nn.BatchNorm1d(3, momentum=None),
            "bare": nn.BatchNorm3d(3, affine=False, eps=0.0),
            "sync": nn.SyncBatchNorm(3, eps=1e-4),
            "instance": nn.InstanceNorm2d(3, track_running_stats=True, affine=True),
            "frozen": FrozenBatchNorm2d(3),
            "untracked": nn.BatchNorm2d(3, track_running_stats=False),
            "lost": nn.InstanceNorm2d(3),
            "group": nn.GroupNorm(1, 3),
            "layer": nn.LayerNorm(3),
        }
    )
    randomize(norms)
    norms["plain"].eval()
    return norms


@layout
def norms_of_every_kind_as_module(folder: Path) -> Layout:
    path = folder / "module.pt"
    norms = _norms()
    torch.save(norms, path)
    settings = {
        "plain": Settings(1e-5, None, False, True),
        "bare": Settings(0.0, 0.1, True, True),
        "sync": Settings(1e-4, 0.1, True, True),
        "instance": Settings(1e-5, 0.1, True, True),
        "frozen": Settings(2e-5, None, True, False),
        "untracked": Settings(1e-5, 0.1, True, True),
        "lost": Settings(1e-5, 0.1, True, True),
        "group": Settings(1e-5, None, True, False),
        "layer": Settings(1e-5, None, True, False),
    }
    kinds = {
        "plain": "BatchNorm",
        "sync": "SyncBatchNorm",
        "instance": "InstanceNorm",
        "frozen": "FrozenBatchNorm",
        "group": "GroupNorm",
        "layer": "LayerNorm",
    }
    return Layout(path, "torch-zip", arrays(norms.state_dict()), settings, kinds=kinds)


@layout
def no_counters(folder: Path) -> Layout:
    expected = {k: v for k, v in state().items() if not k.endswith("num_batches_tracked")}
    return zipped(folder, expected, expected)


@layout
def batchnorm_at_the_root(folder: Path) -> Layout:
    norm = nn.BatchNorm2d(4)
    randomize(norm)
    return zipped(
        folder, norm.state_dict(), dict(norm.state_dict()), layers=silent([""]), prefix=""
    )


@layout
def batchnorm_is_the_module(folder: Path) -> Layout:
    path = folder / "module.pt"
    norm = nn.BatchNorm2d(4, eps=1e-3)
    randomize(norm)
    torch.save(norm, path)
    settings = {"": Settings(1e-3, 0.1, True, True)}
    return Layout(path, "torch-zip", arrays(norm.state_dict()), settings)


@layout
def tensorflow_names(folder: Path) -> Layout:
    expected = {
        name: torch.rand(4)
        for name in ("bn/gamma", "bn/beta", "bn/moving_mean", "bn/moving_variance")
    }
    return zipped(folder, expected, expected, layers=silent(["bn"]))


@layout
def no_norms(folder: Path) -> Layout:
    expected = dict(nn.Linear(2, 3).state_dict())
    return zipped(folder, expected, expected, layers={})
