"""bncheck: are the BatchNorm layers of a trained model sound?

The Python API. `import bncheck` is light; what a call needs is imported by the call.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bncheck._version import __version__
from bncheck.errors import BncheckError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bncheck.inspection import InspectReport
    from bncheck.reading.checkpoint import Checkpoint

__all__ = ["BncheckError", "__version__", "inspect", "open_checkpoint"]


def inspect(
    path: str | Path,
    *,
    key: str | None = None,
    eps: float | None = None,
    momentum: float | None = None,
    train_batch_size: int | None = None,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> InspectReport:
    """Inspect a checkpoint's normalisation layers without executing anything in the file.

    `key` is the subtree to take; `eps` and `momentum` (PyTorch's convention) stand in where the
    file has none; `select` and `ignore` hold rule codes or names. Raises BncheckError.
    """
    from bncheck.inspection import Options
    from bncheck.inspection import inspect as run

    return run(path, Options(key, eps, momentum, train_batch_size, select, ignore))


def open_checkpoint(path: str | Path, *, key: str | None = None) -> Checkpoint:
    """Open any checkpoint; `.tensors` maps names to NumPy arrays, read when asked for.

    Nothing in the file is executed. Raises BncheckError.
    """
    from bncheck.reading.opening import open_checkpoint as run

    return run(path, key)
