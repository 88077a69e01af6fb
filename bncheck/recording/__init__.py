"""Record a training's BatchNorm layers while it runs: `Recorder`, and callbacks for trainers.

Importing this imports nothing heavy: torch comes with the first Recorder, lightning and
transformers with `bncheck.recording.lightning` and `bncheck.recording.transformers`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bncheck.recording.recorder import Recorder

if TYPE_CHECKING:
    from types import ModuleType

    lightning: ModuleType
    transformers: ModuleType

__all__ = ["Recorder"]


def __getattr__(name: str) -> Any:
    """The modules of the trainers, imported when they are asked for."""
    if name in ("lightning", "transformers"):
        return import_module(f"bncheck.recording.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
