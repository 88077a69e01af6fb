"""What a layout is, and where layouts are kept. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]


@dataclass(frozen=True)
class Settings:
    """What the file itself says about a layer; None where it is silent.

    `knows_momentum` tells a silent file from one that says None (a cumulative average).
    """

    eps: float | None = None
    momentum: float | None = None
    training: bool | None = None
    knows_momentum: bool = False


SILENT = Settings()

#: The tensors of a layer, in the order in which ONNX takes them.
ROLES = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Layout:
    """What was written, and what a reader must find in it."""

    path: Path
    container: str
    tensors: Mapping[str, Array]
    layers: Mapping[str, Settings]
    key: str = ""
    prefix: str | None = None  # None: not the subject of this layout
    kinds: Mapping[str, str] = field(default_factory=dict)


Build = Callable[[Path], Layout]

BUILDERS: dict[str, Build] = {}


def layout(build: Build) -> Build:
    BUILDERS[build.__name__.replace("_", "-")] = build
    return build


NAMES = ("bn1", "down.1")
NET_SETTINGS = {
    "bn1": Settings(1e-3, 0.03, False, True),
    "down.1": Settings(1e-5, 0.1, False, True),
}


def silent(names: Iterable[str] = NAMES) -> dict[str, Settings]:
    return dict.fromkeys(names, SILENT)
