"""Which normalisation layers come right after dropout.

In training dropout scales what it keeps by 1/(1-p), which leaves the mean and raises the variance;
in eval mode it does nothing. A running variance behind dropout is therefore too large for
deployment: "variance shift", Li et al. 2018, https://arxiv.org/abs/1801.05134.
"""

from __future__ import annotations

from typing import Any

from bncheck.data import Batch
from bncheck.measuring.forward import forward, prepared
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.norms import in_eval_mode


def layers_behind_dropout(subject: Instrumented, batch: Batch, device: str) -> dict[str, float]:
    """Layer name -> p, for layers with dropout (a module or a call) between them and the last one.

    torch.nn.functional.dropout is called in eval mode too, where it does nothing, so one forward
    shows every call with its p.
    """
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    drops = {
        functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d,
        functional.alpha_dropout, functional.feature_alpha_dropout, torch.dropout,
    }  # fmt: skip
    waiting = 0.0
    found: dict[str, float] = {}

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal waiting
            kwargs = kwargs or {}
            if func in drops:
                p = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
                waiting = max(waiting, float(p))
            return func(*args, **kwargs)

    def hook(name: str) -> Any:
        def before(module: Any, args: Any) -> None:
            nonlocal waiting
            if waiting > 0:
                found.setdefault(name, waiting)
            waiting = 0.0

        return before

    handles = [n.module.register_forward_pre_hook(hook(n.name)) for n in subject.norms]
    try:
        with torch.no_grad(), in_eval_mode(subject.model), Watch():
            forward(subject.model, prepared(subject.model, batch, 0, device), 0)
    finally:
        for handle in handles:
            handle.remove()
    return found
