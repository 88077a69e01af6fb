"""The scales of the input features, and what their spread does to the error surface.

Near its minimum the error of a linear first layer is a quadratic whose curvature is the second
moment matrix E[x x^T] of its inputs. Its condition number is how elongated the valley is: gradient
descent needs about that many steps to cross it (LeCun et al. 1998, Efficient BackProp, section 5).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Floats = NDArray[np.float64]

#: A matrix of this many features is still decomposed in well under a second.
_MAX_FEATURES = 1024
_LISTED = 16


@dataclass(frozen=True)
class InputFeatures:
    """What the first layer with weights is fed; a feature is a channel, of a vector an entry."""

    layer: str
    mean: Floats
    sd: Floats
    condition_number: float | None  # None where there are too many features
    rank: int | None

    @property
    def spread(self) -> float:
        """The largest standard deviation over the smallest that is not zero."""
        positive = self.sd[self.sd > 0]
        return float(positive.max() / positive.min()) if positive.size else 1.0

    def to_dict(self) -> dict[str, object]:
        """As plain data; the first features only."""
        return {
            "layer": self.layer,
            "features": int(self.sd.size),
            "mean": [float(v) for v in self.mean[:_LISTED]],
            "sd": [float(v) for v in self.sd[:_LISTED]],
            "spread": self.spread,
            "condition_number": self.condition_number,
            "rank": self.rank,
        }


class InputWatch:
    """Catches the input of the first convolution or linear layer that runs."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._caught: tuple[str, Any, Tensor] | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on for one forward."""
        import torch

        kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)
        with contextlib.ExitStack() as stack:
            for name, module in self._model.named_modules():
                if isinstance(module, kinds):
                    handle = module.register_forward_pre_hook(self._hook(name))
                    stack.callback(handle.remove)
            yield

    @property
    def features(self) -> InputFeatures | None:
        """What the first layer was fed; None where no such layer ran."""
        if self._caught is None:
            return None
        name, module, x = self._caught
        return _features(name, module, x.float())

    def _hook(self, name: str) -> Any:
        import torch

        def before(module: Any, args: tuple[Any, ...]) -> None:
            if self._caught is None and args and isinstance(args[0], torch.Tensor):
                self._caught = (name, module, args[0].detach())

        return before


def _features(name: str, module: Any, x: Tensor) -> InputFeatures:
    import torch

    if isinstance(module, torch.nn.Linear):
        rows = x.reshape(-1, x.shape[-1])
        columns = rows
    else:
        columns = x.transpose(0, 1).reshape(x.shape[1], -1).T
        rows = _patches(module, x)
    mean, sd = columns.double().mean(dim=0), columns.double().std(dim=0, correction=0)
    condition, rank = _condition(rows) if rows.shape[1] <= _MAX_FEATURES else (None, None)
    return InputFeatures(name, mean.cpu().numpy(), sd.cpu().numpy(), condition, rank)


def _patches(module: Any, x: Tensor) -> Tensor:
    """What each output of a convolution is a linear function of, one row each."""
    import torch

    if isinstance(module, torch.nn.Conv1d) or isinstance(module.padding, str) or module.groups > 1:
        return x.transpose(0, 1).reshape(x.shape[1], -1).T
    patches = torch.nn.functional.unfold(
        x, module.kernel_size, module.dilation, module.padding, module.stride
    )
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])


def _condition(rows: Tensor) -> tuple[float, int]:
    """Largest over smallest eigenvalue of E[x x^T] among those that are not zero, and their number.

    A direction without any variance has no influence on the error, so it is not counted.
    """
    second_moment = (rows.double().T @ rows.double() / max(len(rows), 1)).cpu().numpy()
    values = np.linalg.eigvalsh(second_moment)
    top = float(values[-1]) if values.size else 0.0
    kept = values[values > top * len(values) * np.finfo(np.float32).eps]
    return (top / float(kept[0]), int(kept.size)) if kept.size else (1.0, 0)
