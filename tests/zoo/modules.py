"""Whole pickled modules."""

from __future__ import annotations

import copy
import pathlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.zoo.layout import NET_SETTINGS, Layout, Settings, layout
from tests.zoo.states import arrays, net, randomize


class Holder(nn.Module):
    """Buffers that a state dict leaves out, tied parameters, and a child that is None."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.register_buffer("grid", torch.rand(3), persistent=False)
        self.register_buffer("absent", None)
        self.register_module("later", None)
        self.twin = nn.Linear(5, 2)
        self.twin.weight = self.net.head.weight


def _module(folder: Path, model: nn.Module, prefix: str = "") -> Layout:
    path = folder / "module.pt"
    torch.save(model, path)
    settings = {prefix + name: value for name, value in NET_SETTINGS.items()}
    return Layout(path, "torch-zip", arrays(model.state_dict()), settings)


@layout
def module_own_class(folder: Path) -> Layout:
    return _module(folder, net())


@layout
def module_with_oddities(folder: Path) -> Layout:
    return _module(folder, Holder(), "net.")


@layout
def module_data_parallel(folder: Path) -> Layout:
    return _module(folder, nn.DataParallel(net()).eval(), "module.")


@layout
def module_sequential(folder: Path) -> Layout:
    path = folder / "module.pt"
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3, momentum=0.2), nn.ReLU())
    randomize(model)
    torch.save(model, path)
    settings = {"1": Settings(1e-5, 0.2, True, True)}
    return Layout(path, "torch-zip", arrays(model.state_dict()), settings)


@layout
def module_fx_graph(folder: Path) -> Layout:
    # torch.fx cannot pickle the graph of a forward whose annotations are text, as in this module.
    plain = nn.Sequential(OrderedDict(list(net().named_children())[:3]))
    return _module(folder, torch.fx.symbolic_trace(plain).eval())


@layout
def module_used_twice(folder: Path) -> Layout:
    path = folder / "module.pt"
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(norm, nn.ReLU(), norm)
    randomize(model)
    torch.save(model, path)
    one = Settings(1e-5, 0.1, True, True)
    return Layout(path, "torch-zip", arrays(model.state_dict()), {"0": one, "2": one})


@layout
def yolo_like(folder: Path) -> Layout:
    path = folder / "best.pt"
    model = copy.deepcopy(net()).half()
    content = {
        "epoch": -1,
        "best_fitness": np.float64(0.5),
        "model": model,
        "ema": None,
        "optimizer": None,
        "train_args": {"imgsz": 640, "path": pathlib.PurePosixPath("/data")},
        "date": "2026-01-01",
    }
    torch.save(content, path)
    return Layout(path, "torch-zip", arrays(model.state_dict()), NET_SETTINGS, key="model")
