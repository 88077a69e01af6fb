"""Outputs of convolutions, linear layers and activations: what nets without BatchNorm also have.

Activations count whether they are modules or functions that a module calls (torch.relu).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.overrides import TorchFunctionMode

#: Called with the name of an output, the tensor, and its number of channels.
Record: TypeAlias = "Callable[[str, Tensor, int], object]"

#: Activations as torch, torch.nn.functional and torch.Tensor call them; some also in place (relu_).
_FUNCTIONS: Final = (
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu"),
    *("mish", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "tanh", "logsigmoid", "softplus"),
    *("softsign", "softshrink", "hardshrink", "tanhshrink", "threshold"),
)
#: Calls in one forward of one module that are told apart; a loop has more.
_MOST_CALLS: Final = 16


@dataclass(frozen=True)
class _Source:
    """One module whose output is measured. `width` is what it says of its channels, or None."""

    name: str
    module: nn.Module
    width: int | None


class Outputs:
    """The outputs of one model that are measured."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._sources = _sources(model)

    @contextlib.contextmanager
    def watched(self, record: Record) -> Iterator[None]:
        """Tell `record` of every output while the model runs.

        A function's is named after the module that calls it: layer1.0.relu(), the second one in the
        same forward layer1.0.relu() 2.
        """
        with contextlib.ExitStack() as stack:
            for source in self._sources:
                hook = _after(source, record)
                stack.callback(source.module.register_forward_hook(hook).remove)
            stack.enter_context(self._watched_functions(record))
            yield

    @contextlib.contextmanager
    def _watched_functions(self, record: Record) -> Iterator[None]:
        calls = _Calls(record, {source.name for source in self._sources})
        with contextlib.ExitStack() as stack:
            for name, module in self._model.named_modules():
                stack.callback(module.register_forward_pre_hook(calls.entering(name)).remove)
                handle = module.register_forward_hook(calls.leave, always_call=True)
                stack.callback(handle.remove)
            stack.enter_context(_mode(calls.called))
            yield


class _Calls:
    """Knows whose forward is running, and names what it calls."""

    def __init__(self, record: Record, measured: set[str]) -> None:
        self._record = record
        self._measured = measured
        self._running: list[tuple[str, Counter[str]]] = []

    def entering(self, name: str) -> Any:
        return lambda module, args: self._running.append((name, Counter()))

    def leave(self, module: Any, args: Any, result: Any) -> None:
        self._running.pop()

    def called(self, function: str, result: Any) -> None:
        """A function of that name gave this result."""
        module, counts = self._running[-1] if self._running else ("", Counter())
        if module in self._measured or not _is_measurable(result):  # nn.ReLU calls relu, too
            return
        counts[function] = number = min(counts[function] + 1, _MOST_CALLS)
        name = f"{module}.{function}()" if module else f"{function}()"
        self._record(name if number == 1 else f"{name} {number}", result, _channels(result))


def _mode(called: Callable[[str, Any], None]) -> TorchFunctionMode:
    """While it is entered, `called` is told of every activation function and its result."""
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    names = {
        getattr(home, name): plain
        for home in (torch, functional, torch.Tensor)
        for plain in _FUNCTIONS
        for name in (plain, f"{plain}_")
        if hasattr(home, name)
    }

    class Mode(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            if func in names:
                called(names[func], result)
            return result

    return Mode()


def _after(source: _Source, record: Record) -> Any:
    def after(module: Any, args: tuple[Any, ...], result: Any) -> None:
        if _is_measurable(result):
            record(source.name, result, source.width or _channels(result))

    return after


def _is_measurable(result: Any) -> bool:
    """Whether it is a tensor with samples and channels."""
    import torch

    return isinstance(result, torch.Tensor) and result.is_floating_point() and result.ndim >= 2


def _channels(x: Tensor) -> int:
    """The number of channels: those of (N, C, H, W) come second, of (N, L, C) last."""
    return int(x.shape[-1 if x.ndim == 3 else 1])


def _sources(model: nn.Module) -> list[_Source]:
    """Every convolution, linear layer and activation that is a module of its own."""
    from torch import nn
    from torch.nn.modules import activation
    from torch.nn.modules.conv import _ConvNd

    others = ("MultiheadAttention", "Softmax", "LogSoftmax", "Softmax2d", "Softmin")
    activations: tuple[type[nn.Module], ...] = tuple(
        getattr(activation, name) for name in activation.__all__ if name not in others
    )
    found = []
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd):
            found.append(_Source(name, module, module.out_channels))
        elif isinstance(module, nn.Linear):
            found.append(_Source(name, module, module.out_features))
        elif isinstance(module, activations):
            found.append(_Source(name, module, None))
    return found
