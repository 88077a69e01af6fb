"""What the first layer with weights is fed, summed up in float64 over all batches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from bncheck.measuring.features import InputFeatures
from bncheck.measuring.reduction import in_single, portions

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from bncheck.measuring.distributed import Processes

    Floats = NDArray[np.float64]

#: A matrix of this many features is still decomposed in well under a second.
_MAX_FEATURES = 1024
#: Rows of a batch that a second moment matrix is made of, drawn by chance: at least so many, and so
#: many for each feature. It costs rows x features^2.
_ROWS = 1024
_ROWS_EACH = 4
#: Numbers of small batches that wait to be summed up together.
_WAITING = 1 << 18


class InputWatch:
    """Sums up the inputs of the first convolution or linear layer that runs."""

    def __init__(self, model: nn.Module, processes: Processes) -> None:
        self._model = model
        self._processes = processes
        self._first: tuple[str, nn.Module] | None = None
        self._sums: Floats | None = None
        self._waiting: list[Tensor] = []
        self._counts = True
        self._handles: dict[nn.Module, RemovableHandle] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on for a pass over the data."""
        import torch

        kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d)
        self._handles = {
            module: module.register_forward_pre_hook(self._hook(name))
            for name, module in self._model.named_modules()
            if isinstance(module, kinds)
        }
        try:
            yield
        finally:
            for handle in self._handles.values():
                handle.remove()

    @contextlib.contextmanager
    def first_forward(self) -> Iterator[None]:
        """All ranks run the first batch, and the first rank alone counts it, whose batch it is."""
        self._counts = not self._processes.rank or self._processes.own_data
        try:
            yield
        finally:
            self._counts = True

    def features(self) -> InputFeatures | None:
        """What the first layer was fed, over all processes; None where no such layer ran."""
        self._sum_up()
        sums = self._processes.summed(self._sums)
        if self._first is None or sums is None:
            return None
        return _features(*self._first, sums)

    def _hook(self, name: str) -> Any:
        import torch

        def before(module: Any, args: tuple[Any, ...]) -> None:
            if self._first is None and args and isinstance(args[0], torch.Tensor):
                self._first = (name, module)
                self._leave_all_but(module)
            if not self._counts or self._first is None or self._first[1] is not module:
                return
            usual = isinstance(module, torch.nn.Linear) or args[0].ndim == module.weight.ndim
            if usual and args[0].numel():  # a router may give it no rows
                self._add(module, args[0].detach())

        return before

    def _add(self, module: Any, x: Tensor) -> None:
        """Sum up a batch; small batches of vectors wait until together they are enough."""
        import torch

        features = x.shape[-1]
        rows, most = x.numel() // features, min(_ROWS, _WAITING // features)
        if not isinstance(module, torch.nn.Linear) or rows > most:
            self._keep(_sums(module, x))
            return
        if sum(x.shape[0] for x in self._waiting) + rows > most:
            self._sum_up()
        self._waiting.append(x.reshape(rows, features).clone())

    def _sum_up(self) -> None:
        import torch

        if self._waiting and self._first is not None:
            self._keep(_sums(self._first[1], torch.cat(self._waiting)))
            self._waiting.clear()

    def _keep(self, sums: Floats) -> None:
        self._sums = sums if self._sums is None else self._sums + sums

    def _leave_all_but(self, first: nn.Module) -> None:
        """A hook that has nothing to do costs as much as a small layer."""
        for module, handle in self._handles.items():
            if module is not first:
                handle.remove()


def _sums(module: Any, x: Tensor) -> Floats:
    """The number of values of a feature, sums, sums of squares, second moments of (x, 1)."""
    import torch

    x, linear = x.cpu(), isinstance(module, torch.nn.Linear)
    number = x.numel() // x.shape[-1 if linear else 1]
    few = _inputs_of_one(module) <= _MAX_FEATURES
    second = _second_moments(_rows(module, x)) if few else np.zeros((0, 0))
    if linear and few and second[-1, -1] == number:  # of all rows: the sums are among them
        total, squares = second[-1, :-1], second.diagonal()[:-1]
    else:
        total, squares = _by_feature(x, -1 if linear else 1)
    return np.concatenate([[number], total, squares, second.ravel()])


def _second_moments(rows: Tensor) -> Floats:
    """The sums of (x, 1) (x, 1)^T, of which numpy computes one half."""
    import torch

    wide = torch.empty((len(rows), rows.shape[1] + 1), dtype=torch.float64)
    wide[:, :-1], wide[:, -1] = rows, 1
    numbers: Floats = wide.numpy()
    return np.asarray(numbers.T @ numbers)


def _by_feature(x: Tensor, axis: int) -> Floats:
    """Sums and sums of squares in float64, (features,) each; of so many numbers at a time."""
    import torch

    wide = x.movedim(axis, 1) if x.ndim > 1 else x[None]
    dims = [dim for dim in range(wide.ndim) if dim != 1]
    sums = torch.zeros((2, wide.shape[1]), dtype=torch.float64)
    for portion in portions(wide):
        part = portion.double()
        sums[0] += part.sum(dims)
        sums[1] += part.square().sum(dims)  # no copy if in float64: the user's
    return np.asarray(sums.numpy())


def _features(name: str, module: Any, sums: Floats) -> InputFeatures:
    import torch

    linear = isinstance(module, torch.nn.Linear)
    channels = module.in_features if linear else module.in_channels
    number, total, squares = sums[0], sums[1 : channels + 1], sums[channels + 1 : 2 * channels + 1]
    mean = total / number
    sd = np.sqrt(np.maximum(squares / number - mean**2, 0))
    size = math.isqrt(sums.size - 2 * channels - 1)
    matrix = sums[2 * channels + 1 :].reshape(size, size)
    moments = matrix / matrix[-1, -1] if size else None
    return InputFeatures(name, mean, sd, moments, module.bias is not None)


def _inputs_of_one(module: Any) -> int:
    """How many inputs an output is a linear function of."""
    import torch

    if isinstance(module, torch.nn.Linear):
        return int(module.in_features)
    window = math.prod(module.kernel_size) if _has_patches(module) else 1
    return int(module.in_channels) * window


def _has_patches(module: Any) -> bool:
    import torch

    flat = isinstance(module, torch.nn.Conv2d) and module.groups == 1
    return flat and not isinstance(module.padding, str)


def _rows(module: Any, x: Tensor) -> Tensor:
    """What an output is a linear function of: a row for each of some outputs."""
    import torch

    if isinstance(module, torch.nn.Linear):
        return _drawn(x.reshape(-1, x.shape[-1]), x.shape[-1])
    if not _has_patches(module):
        return _drawn(x.movedim(1, -1).reshape(-1, x.shape[1]), x.shape[1])
    (top, left), (high, wide) = module.padding, module.kernel_size
    x = torch.nn.functional.pad(in_single(x), (left, left, top, top))
    down, across = module.dilation
    windows = x.unfold(2, (high - 1) * down + 1, module.stride[0])
    windows = windows.unfold(3, (wide - 1) * across + 1, module.stride[1])
    windows = windows[..., ::down, ::across].permute(0, 2, 3, 1, 4, 5)  # a view: nothing is copied
    places = _places(math.prod(windows.shape[:3]), math.prod(windows.shape[3:]))
    # torch.unravel_index would import what costs more than all patches: sympy.
    number, row, column = np.unravel_index(places.numpy(), windows.shape[:3])
    # numpy copies window by window, where torch computes the place of every number.
    return torch.from_numpy(windows.numpy(force=True)[number, row, column]).flatten(1)


def _drawn(rows: Tensor, features: int) -> Tensor:
    places = _places(len(rows), features)
    return rows if len(places) == len(rows) else rows[places]


@lru_cache(maxsize=2)
def _places(rows: int, features: int) -> Tensor:
    """Some rows, drawn by chance: equal steps would meet the same columns of an image.

    Batches of one size share them.
    """
    import torch

    most = max(_ROWS, _ROWS_EACH * features)
    if rows <= most:
        return torch.arange(rows)
    return torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:most]
