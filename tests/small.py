"""Small checkpoints whose statistics are sound, but for what a test makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

CHANNELS = 4


def layer(*, batches: int = 1000, **changed: float) -> dict[str, np.ndarray]:
    """One BatchNorm's tensors; a keyword sets the first channel of a tensor: running_var=nan."""
    spread = np.linspace(0.9, 1.1, CHANNELS, dtype=np.float32)
    tensors = {
        "weight": spread.copy(),
        "bias": spread - 1,
        "running_mean": spread - 0.5,
        "running_var": spread * 2,
    }
    for name, value in changed.items():
        tensors[name][0] = value
    return {**tensors, "num_batches_tracked": np.array(batches)}


def save(path: Path, layers: Mapping[str, Mapping[str, np.ndarray]]) -> Path:
    """Write the layers as safetensors."""
    tensors = {
        f"{name}.{role}": tensor for name, roles in layers.items() for role, tensor in roles.items()
    }
    save_file(tensors, path)
    return path


def healthy(path: Path, names: Sequence[str] = ("bn1", "bn2")) -> Path:
    """Nothing to find."""
    return save(path, {name: layer() for name in names})


def dead(path: Path, name: str = "bn2") -> Path:
    """BN109, a note, in the layer of that name."""
    return save(path, {"bn1": layer(), name: layer(running_var=0)})


def broken(path: Path, *names: str) -> Path:
    """BN102, an error, in the layers of these names."""
    bad = {name: layer(running_var=np.nan) for name in names or ("bn2",)}
    return save(path, {"bn1": layer(), **bad})
