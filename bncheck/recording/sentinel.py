"""The first step after which a layer's numbers are not finite.

A running average keeps a NaN for ever, so it would be found at the next recorded step, but not when
it came. One sum over all layers a step is enough to know: NaN and infinity go through it. On an
accelerator the step stays there until it is asked for, so that no step waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from bncheck.recording.modules import Watched


class Sentinel:
    """Looks at one model after every step."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._first: Tensor | None = None

    def look(self, step: int) -> int | None:
        """The step, where a number is not finite and the model is on a CPU."""
        import torch

        tensors = [t for t in self._watched.tensors().values() if t.is_floating_point()]
        kinds = {(tensor.device, tensor.dtype) for tensor in tensors}
        groups = [[t for t in tensors if (t.device, t.dtype) == kind] for kind in kinds]
        with torch.no_grad():
            for group in groups:
                total = torch.cat([tensor.reshape(-1) for tensor in group]).sum()
                if total.device.type == "cpu":
                    if not total.isfinite() and not all(bool(t.isfinite().all()) for t in group):
                        return step
                else:
                    self._remember(total, step)
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
