"""New numbers by the names of a file's or a module's tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.reading.checkpoint import Checkpoint
from bncheck.recalibrating.report import RecalibrationReport

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bncheck.reading.tensors import Array


def values_in_file(report: RecalibrationReport, checkpoint: Checkpoint) -> dict[str, Array]:
    """New numbers by the names of tensors in the file."""
    found: dict[str, Array] = {}
    for name, (mean, var) in report.statistics.items():
        dot = f"{name}." if name else ""
        called = report.tensors.get(name, {})
        for role, values in (("running_mean", mean), ("running_var", var)):
            tensor = called.get(role, f"{dot}{role}")
            if tensor in checkpoint.tensors:
                found[tensor] = values.reshape(checkpoint.tensors.lazy[tensor].shape)
        counter = f"{dot}num_batches_tracked"
        if name in report.counters and counter in checkpoint.tensors:
            found[counter] = np.array(report.counters[name])
    if not found:
        raise BncheckError(
            "holds no running statistics under the names of the model", "check --key",
            str(checkpoint.path),
        )  # fmt: skip
    return found


def buffers_of(model: nn.Module, report: RecalibrationReport) -> dict[str, Tensor]:
    """New numbers by the names of the module's state dict."""
    import torch

    known = model.state_dict()
    found: dict[str, Tensor] = {}
    for name, (mean, var) in report.statistics.items():
        dot = f"{name}." if name else ""
        called = report.tensors.get(name, {})
        for role, values in (("running_mean", mean), ("running_var", var)):
            tensor = called.get(role, f"{dot}{role}")
            old = known[tensor]
            new = torch.from_numpy(values).to(old.device, old.dtype)
            found[tensor] = new.reshape(old.shape)
        if name in report.counters:
            old = known[f"{dot}num_batches_tracked"]
            found[f"{dot}num_batches_tracked"] = torch.full_like(old, report.counters[name])
    return found
