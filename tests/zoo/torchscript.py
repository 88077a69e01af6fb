"""TorchScript: scripted, traced and frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.zoo.layout import NET_SETTINGS, Layout, Settings, layout
from tests.zoo.states import arrays, net, numpy_of, quietly, state

_trace: Callable[..., Any] = torch.jit.trace

_load: Callable[..., Any] = torch.jit.load


@layout
def torchscript_scripted(folder: Path) -> Layout:
    path = folder / "model.pt"
    quietly(lambda: torch.jit.save(torch.jit.script(net()), path))
    return Layout(path, "torchscript", arrays(state()), NET_SETTINGS)


@layout
def torchscript_traced(folder: Path) -> Layout:
    path = folder / "model.pt"
    example = torch.rand(1, 3, 5, 5)
    quietly(lambda: torch.jit.save(_trace(net(), example), path))
    return Layout(path, "torchscript", arrays(state()), NET_SETTINGS)


@layout
def torchscript_traced_in_training_mode(folder: Path) -> Layout:
    path = folder / "model.pt"
    model, example = net().train(), torch.rand(2, 3, 5, 5)
    quietly(lambda: torch.jit.save(_trace(model, example, check_trace=False), path))
    settings = {k: Settings(v.eps, v.momentum, True, True) for k, v in NET_SETTINGS.items()}
    # Tracing ran the model once, so the statistics are those of the model afterwards.
    return Layout(path, "torchscript", arrays(model.state_dict()), settings)


@layout
def torchscript_frozen(folder: Path) -> Layout:
    """Freezing inlines the modules: what is left are constants, and calls that use them."""
    path = folder / "model.pt"

    def make() -> dict[str, Tensor]:
        frozen = torch.jit.freeze(torch.jit.script(net()), optimize_numerics=False)
        torch.jit.save(frozen, path)
        constants: dict[str, Tensor] = _load(path).code_with_constants[1].const_mapping
        return constants

    expected = {f"CONSTANTS.{name}": numpy_of(value) for name, value in quietly(make).items()}
    settings = {"batch_norm_0": NET_SETTINGS["bn1"], "batch_norm_1": NET_SETTINGS["down.1"]}
    return Layout(path, "torchscript", expected, settings)
