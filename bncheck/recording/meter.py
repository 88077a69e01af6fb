"""The hooks of a recorded step, which are there for that step alone.

Of each call the moments per image are kept (`recording.images`). Where running averages will tell
what their batch was like, they need not be: then a call is only looked at, for its largest value.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bncheck.recording.batch import Batch, Glance
from bncheck.recording.images import Call, batches_of, measured

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bncheck.recording.modules import Watched


@dataclass(slots=True)
class _Look:
    """One call that was only looked at, still where it was computed."""

    images: int
    low: Tensor
    high: Tensor


@dataclass
class BatchMeter:
    """Measures the layers of one model while it is attached.

    By torch's hooks for all modules: those of a layer of its own would be copied and saved with it.
    """

    watched: Watched
    on_single: Callable[[str], None]
    on_failure: Callable[[Exception], None]
    _brief: bool = False
    _attached: bool = False
    _handles: list[Any] = field(default_factory=list)
    _calls: dict[str, list[Call]] = field(default_factory=dict)
    _looks: dict[str, list[_Look]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """The layers by identity."""
        self._norms = {id(norm.module): norm for norm in self.watched.norms}
        self._outputs = {id(module): name for name, module in self.watched.outputs}

    def attach(self, brief: bool = False) -> None:
        """Measure from now on, or only look; a compiled model is left alone."""
        from torch.nn.modules import module

        self._brief = brief
        if self._handles or self.watched.compiled:
            return
        if not self._attached:
            # torch warns that hooks may run twice for a compiled wrapper, which is no layer.
            warnings.filterwarnings("ignore", "Using `torch.compile.*global hooks", UserWarning)
        self._attached = True
        self._handles.append(module.register_module_forward_pre_hook(self._before))
        if self._outputs:
            self._handles.append(module.register_module_forward_hook(self._after))

    def detach(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def largest(self) -> dict[str, float]:
        """By layer the largest absolute value so far, NaN and infinity included."""
        import torch

        found = [(name, call.largest) for name, calls in self._calls.items() for call in calls]
        for name, looks in self._looks.items():
            found += [(name, value) for look in looks for value in (look.low, look.high)]
        values = [value for _, value in found]
        if len({(value.device, value.dtype) for value in values}) > 1:
            values = [value.to(values[0].device, torch.float32) for value in values]
        largest: dict[str, float] = {}
        numbers = torch.stack(values).tolist() if values else []
        for (name, _), value in zip(found, numbers, strict=True):
            largest[name] = _larger(largest.get(name, 0.0), abs(value))
        return largest

    def take(self) -> tuple[dict[str, Batch], dict[str, Glance]]:
        """What was measured since the last time, by layer, and what was looked at."""
        batches = batches_of(self._calls)
        largest = self.largest() if self._looks else {}
        glances = {
            name: Glance(len(looks), float(sum(look.images for look in looks)), largest[name])
            for name, looks in self._looks.items()
            if name not in batches
        }
        self._calls, self._looks = {}, {}
        return batches, glances

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        norm = self._norms.get(id(module))
        if norm is not None and args and self._counts(module):
            if self._brief and module.training:
                self._look(norm.name, norm.channels, args[0])
            else:
                self._measure(norm.name, norm.channels, args[0], module.training)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        name = self._outputs.get(id(module))
        if name is not None and self._counts(module):
            weight: Any = module.weight
            transposed = bool(getattr(module, "transposed", False))
            width = getattr(module, "out_channels", weight.shape[1 if transposed else 0])
            self._measure(name, int(width), output, False)

    def _counts(self, module: nn.Module) -> bool:
        """Whether this is a forward of the training, and is run rather than traced."""
        import torch

        return not torch.compiler.is_compiling() and (self.watched.training or module.training)

    def _measure(self, name: str, channels: int, x: Tensor, normalised: bool) -> None:
        import torch

        if normalised and x.numel() == channels:
            self.on_single(name)
            return
        try:
            with torch.no_grad():
                self._calls.setdefault(name, []).append(measured(name, channels, x.detach()))
        except Exception as error:  # whatever is wrong with measuring, the training goes on
            self.on_failure(error)

    def _look(self, name: str, channels: int, x: Tensor) -> None:
        import torch

        if x.numel() == channels:
            self.on_single(name)
            return
        try:
            low, high = torch.aminmax(x.detach())
            self._looks.setdefault(name, []).append(_Look(x.shape[0], low, high))
        except Exception as error:
            self.on_failure(error)


def _larger(first: float, second: float) -> float:
    """The larger one; NaN is larger than all."""
    return first if math.isnan(first) or second <= first else second
