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
    from typing import Any

    from torch import nn
    from torch.export import ExportedProgram

    from bncheck.folding.torch_fold import FoldResult
    from bncheck.inspection import InspectReport
    from bncheck.reading.checkpoint import Checkpoint

__all__ = ["BncheckError", "__version__", "fold", "inspect", "load_folded", "open_checkpoint"]


def fold(
    model: nn.Module | ExportedProgram,
    example_inputs: tuple[Any, ...] | None = None,
    *,
    keep: Sequence[str] = (),
    tolerance: float | None = None,
    fail_unfolded: bool = False,
) -> FoldResult:
    """Fold every normalisation that can exactly be folded into its neighbours.

    `model` is left as it is. The result's `.program` is a torch.export program, `.module()` calls
    it, `.batchnorms` says what became of each, `.parity` how close it is to the original in
    float64. Raises BncheckError where it cannot be done or is not the same function.
    """
    from bncheck.folding.torch_fold import FoldOptions
    from bncheck.folding.torch_fold import fold as run

    result = run(model, example_inputs, FoldOptions(keep, tolerance, fail_unfolded))
    result.refuse_unsound()
    return result


def load_folded(module: nn.Module, path: str | Path) -> nn.Module:
    """Load a folded .safetensors into a model of the original architecture, in place.

    The folded layers get their new weights and their normalisations become Identity; a file that
    belongs to another model is refused before anything is changed. Raises BncheckError.
    """
    from bncheck.folding.state_file import load_folded as run

    return run(module, Path(path))


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
