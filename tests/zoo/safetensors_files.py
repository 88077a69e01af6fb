"""Single safetensors files."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

from tests.zoo.layout import Layout, layout, silent
from tests.zoo.states import arrays, state, statistics
from tests.zoo.tensors import of_every_dtype


@layout
def safetensors_file(folder: Path) -> Layout:
    path = folder / "model.safetensors"
    safetensors.torch.save_file(state(), path, metadata={"format": "pt"})
    return Layout(path, "safetensors", arrays(state()), silent())


@layout
def safetensors_dtypes(folder: Path) -> Layout:
    path = folder / "model.safetensors"
    expected = of_every_dtype()
    expected |= {k: v.bfloat16() for k, v in statistics().items()}
    expected |= {"zero_dim": torch.tensor(1.5), "empty": torch.empty(0, 3)}
    safetensors.torch.save_file(expected, path)
    return Layout(path, "safetensors", arrays(expected), silent(["bn"]))
