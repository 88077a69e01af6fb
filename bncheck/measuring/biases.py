"""The biases that stand directly before layers, which a norm takes out again.

In train() mean(W x + b) takes b with it, so no gradient ever reaches it; in eval() a running mean
has to hold the very b that the module has now. A layer is directly behind a convolution or linear
module where it is fed what that returned.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from bncheck.data import Batch
from bncheck.measuring.forward import forward
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.norms import TrackingNorm, in_eval_mode
from bncheck.measuring.own_update import input_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn


def biases(subject: Instrumented, batch: Batch) -> dict[str, NDArray[np.float64]]:
    """The bias of what feeds each layer in a forward, (C,) each, by the model's names.

    Only of layers that are fed so, by one module and with a bias. Raises BncheckError as a forward
    does.
    """
    import torch

    given: dict[int, tuple[Tensor, float, nn.Module]] = {}
    feeding: dict[str, list[nn.Module | None]] = {}

    def after(module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            # held, so that its place is not used again
            given[output.data_ptr()] = output, float(output.sum()), module

    def before(norm: TrackingNorm) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            x = input_of(args, kwargs)
            output, total, module = given.get(x.data_ptr(), (None, 0.0, None))
            whole = output is not None and output.numel() == x.numel()
            unchanged = output is not None and float(output.sum()) == total  # no ReLU in its place
            feeding.setdefault(norm.name, []).append(module if whole and unchanged else None)

        return hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(in_eval_mode(subject.model))
        for module in _with_bias(subject.model):
            stack.callback(module.register_forward_hook(after).remove)
        for norm in subject.norms:
            hook = norm.module.register_forward_pre_hook(before(norm), with_kwargs=True)
            stack.callback(hook.remove)
        forward(subject.model, batch, 0)
    channels = {norm.name: norm.channels for norm in subject.norms}
    found = {name: _bias(modules[0]) for name, modules in feeding.items() if len(set(modules)) == 1}
    return {name: b for name, b in found.items() if b is not None and len(b) == channels[name]}


def _with_bias(model: nn.Module) -> list[nn.Module]:
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    kinds = (nn.Linear, _ConvNd)
    return [m for m in model.modules() if isinstance(m, kinds) and m.bias is not None]


def _bias(module: nn.Module | None) -> NDArray[np.float64] | None:
    bias: Any = None if module is None else module.bias
    return None if bias is None else bias.detach().double().cpu().numpy()
