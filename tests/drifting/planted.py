"""Series of sample snapshots with one fault each, written by code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.networks import SAMPLES

SNAPSHOTS = sorted((SAMPLES / "snapshots").glob("*.pt"))
State = dict[str, Tensor]


def loaded() -> list[dict[str, Any]]:
    """The six real snapshots, fresh."""
    return [torch.load(path) for path in SNAPSHOTS]


def write(folder: Path, files: list[dict[str, Any]], names: list[str] | None = None) -> list[Path]:
    """Save them under their own names, or others."""
    names = names or [path.name for path in SNAPSHOTS]
    paths = [folder / name for name in names[: len(files)]]
    for path, content in zip(paths, files, strict=True):
        torch.save(content, path)
    return paths


def changed(folder: Path, change: Callable[[int, State], None]) -> list[Path]:
    """The series with a change made to every state, which is told its place."""
    files = loaded()
    for place, content in enumerate(files):
        change(place, content["state_dict"])
    return write(folder, files)
