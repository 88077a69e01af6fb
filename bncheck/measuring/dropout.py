"""Which normalisation layers come right after dropout.

In training dropout scales what it keeps by 1/(1-p), which leaves the mean and raises the variance;
in eval mode it does nothing. A running variance behind dropout is therefore too large for
deployment: "variance shift", Li et al. 2018, https://arxiv.org/abs/1801.05134.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
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
            stack.enter_context(_mode(self._dropped))
            yield

    def _dropped(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A dropout is called, with a probability."""
        p = float(args[1] if len(args) > 1 else kwargs.get("p", 0.5))
        self._waiting = max(self._waiting, p)
        return func(*args, **kwargs)

    def _hook(self, name: str) -> Any:
        def before(module: Any, args: Any) -> None:
            if self._waiting > 0:
                self.found.setdefault(name, self._waiting)
            self._waiting = 0.0

        return before


@contextlib.contextmanager
def dropping(device: str) -> Iterator[None]:
    """Every dropout drops as in training, though its module is in eval mode.

    What is drawn in it leaves the generators as they were.
    """
    import torch

    def drop(func: Any, args: Any, kwargs: Any) -> Any:
        p = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
        return func(args[0] if args else kwargs["input"], float(p), True)

    used = torch.device(device)
    with torch.random.fork_rng(devices=[used] if used.type == "cuda" else []), _mode(drop):
        yield


def _mode(drop: Callable[[Any, Any, Any], Any]) -> TorchFunctionMode:
    """A context in which `drop` makes the calls of dropout."""
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
            return (drop if func in drops else _as_it_is)(func, args, kwargs or {})

    return Mode()


def _as_it_is(func: Any, args: Any, kwargs: Any) -> Any:
    return func(*args, **kwargs)
