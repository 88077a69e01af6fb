"""Which normalisation layers come right after dropout.

In training dropout scales what it keeps by 1/(1-p), which leaves the mean and raises the variance;
in eval mode it does nothing. A running variance behind dropout is therefore too large for
deployment: "variance shift", Li et al. 2018, https://arxiv.org/abs/1801.05134.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bncheck.measuring.norms import TrackingNorm

if TYPE_CHECKING:
    from torch.overrides import TorchFunctionMode


class DropoutWatch:
    """Layer name -> p, for layers with dropout (a module or a call) between them and the last one.

    torch.nn.functional.dropout is called in eval mode too, where it does nothing, so one forward
    shows every call with its p.
    """

    def __init__(self, norms: Sequence[TrackingNorm]) -> None:
        self.found: dict[str, float] = {}
        self._norms = norms
        self._waiting = 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on for one forward."""
        with contextlib.ExitStack() as stack:
            for norm in self._norms:
                handle = norm.module.register_forward_pre_hook(self._hook(norm.name))
                stack.callback(handle.remove)
            stack.enter_context(_mode(self))
            yield

    def dropped(self, p: float) -> None:
        """A dropout with this probability was called."""
        self._waiting = max(self._waiting, p)

    def _hook(self, name: str) -> Any:
        def before(module: Any, args: Any) -> None:
            if self._waiting > 0:
                self.found.setdefault(name, self._waiting)
            self._waiting = 0.0

        return before


def _mode(watch: DropoutWatch) -> TorchFunctionMode:
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    drops = {
        functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d,
        functional.alpha_dropout, functional.feature_alpha_dropout, torch.dropout,
    }  # fmt: skip

    class Mode(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if func in drops:
                watch.dropped(float(args[1] if len(args) > 1 else kwargs.get("p", 0.5)))
            return func(*args, **kwargs)

    return Mode()
