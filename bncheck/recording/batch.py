"""What every layer's batch is like at a recorded step, by hooks that are there for that step alone.

Of each call the moments per image are kept (`measuring.moments`). A running average takes one step
for each call, so calls of one step (accumulated gradients, a discriminator's real and fake images)
are averaged, and not pooled: with their means apart, their pooled variance is none that any of them
was normalised with.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bncheck.measuring.collector import portions
from bncheck.measuring.moments import Moments
from bncheck.measuring.norms import channels_second

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from bncheck.recording.modules import Watched

    Floats = NDArray[np.float64]

#: A mean more than 30 standard deviations from 0 needs a pivot: in single precision its square
#: swallows the variance.
_FAR: Final = 1000.0
#: Images whose mean is the pivot: near enough for single precision.
_PIVOT: Final = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """A layer's batch: mean and unbiased variance by channel, the average of its calls.

    `unit` is the variance of one image's moments, of the mean and (of the square) for a given
    scale; `images` in all, `largest` the largest absolute value.
    """

    mean: Floats
    var: Floats
    var_of_means: Floats
    var_of_squares: Floats
    images: float
    calls: int
    largest: float

    def noise(self, scale: Floats) -> Floats:
        """What W2^2 in units of `scale`, a variance, is off by with one image, by chance."""
        own = np.maximum(self.var, np.finfo(np.float64).tiny)
        noise: Floats = (self.var_of_means + self.var_of_squares / (4 * own)) / scale
        return noise


@dataclass(slots=True)
class _Call:
    """One call, still where it was computed: per image mean and mean square about the pivot."""

    m: Tensor
    q: Tensor
    pivot: Tensor
    largest: Tensor
    values: float


@dataclass
class BatchMeter:
    """Measures the layers of one model while it is attached.

    By torch's hooks for all modules: those of a layer of its own would be copied and saved with it.
    """

    watched: Watched
    on_single: Callable[[str], None]
    on_failure: Callable[[Exception], None]
    _handles: list[Any] = field(default_factory=list)
    _calls: dict[str, list[_Call]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """The layers by identity."""
        self._norms = {id(norm.module): norm for norm in self.watched.norms}
        self._outputs = {id(module): name for name, module in self.watched.outputs}

    def attach(self) -> None:
        """Measure from now on; a compiled model is left alone."""
        from torch.nn.modules import module

        if self._handles or self.watched.compiled:
            return
        # torch warns that hooks may run twice for a compiled wrapper, which is none of the layers.
        warnings.filterwarnings("ignore", "Using `torch.compile.*global hooks", UserWarning)
        self._handles.append(module.register_module_forward_pre_hook(self._before))
        if self._outputs:
            self._handles.append(module.register_module_forward_hook(self._after))

    def detach(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def peek(self) -> dict[str, Batch]:
        """What was measured so far; it stays."""
        moments = _moments([call for calls in self._calls.values() for call in calls])
        found, place = {}, 0
        for name, calls in self._calls.items():
            found[name] = _batch([moments[place + number] for number in range(len(calls))], calls)
            place += len(calls)
        return found

    def take(self) -> dict[str, Batch]:
        """What was measured since the last time, by layer."""
        taken = self.peek()
        self._calls.clear()
        return taken

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        norm = self._norms.get(id(module))
        if norm is not None and args and self._counts(module):
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
                self._calls.setdefault(name, []).append(_measured(name, channels, x.detach()))
        except Exception as error:  # whatever is wrong with measuring, the training goes on
            self.on_failure(error)


def _measured(name: str, channels: int, x: Tensor) -> _Call:
    import torch

    parts = [_portion(channels_second(name, channels, part)) for part in portions(x)]
    if any(part is None for part in parts):
        pivot = _pivot(channels_second(name, channels, x[:_PIVOT]))
        parts = [_portion(channels_second(name, channels, part), pivot) for part in portions(x)]
    else:
        pivot = x.new_zeros(channels, dtype=torch.float32)
    found = [part for part in parts if part is not None]
    m, q, largest = (torch.cat([part[place] for part in found]) for place in range(3))
    return _Call(m, q, pivot, largest.max(), x.numel() / m.numel())


def _pivot(images: Tensor) -> Tensor:
    return _single(images).mean(dim=(0, 2)).nan_to_num(0.0, 0.0, 0.0)


def _portion(images: Tensor, pivot: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor] | None:
    """Mean and mean square of every image and channel, and the largest value.

    Without a pivot nothing is copied, but single precision loses the variance where means are far
    larger: then, and on accelerators, where looking would make them wait, None.
    """
    import torch

    low, high = torch.aminmax(images)
    largest = torch.maximum(high.abs(), low.abs()).float().reshape(1)
    values = _single(images)
    if pivot is not None:
        values = values - pivot[:, None]
    elif values.device.type != "cpu":
        return None
    number = values.shape[2]
    m = values.mean(dim=2) if number > 1 else values[:, :, 0]
    norm = torch.linalg.vector_norm(values, dim=2) if number > 1 else m
    q = norm.square() / number
    if pivot is None and bool((m.mean(dim=0).square() > _FAR * _variance(m, q)).any()):
        return None
    return m, q, largest


def _variance(m: Tensor, q: Tensor) -> Tensor:
    return q.mean(dim=0) - m.mean(dim=0).square()


def _single(x: Tensor) -> Tensor:
    """Half precision as single."""
    return x.float() if x.dtype.itemsize < 4 else x


def _batch(each: Sequence[Moments], calls: Sequence[_Call]) -> Batch:
    with np.errstate(invalid="ignore", over="ignore"):
        return Batch(
            _average([one.mean for one in each]),
            _average([one.unbiased_var for one in each]),
            _average([one.var_of_means for one in each]),
            _average([one.var_of_squares for one in each]),
            sum(one.effective_images for one in each),
            len(each),
            max(float(call.largest) for call in calls),
        )


def _average(arrays: Sequence[Floats]) -> Floats:
    average: Floats = arrays[0] if len(arrays) == 1 else np.mean(arrays, axis=0)
    return average


def _moments(calls: Sequence[_Call]) -> dict[int, Moments]:
    """`measuring.moments.of_images` of every call, by its place, all of as many images at once.

    Where the images are, be it on an accelerator. Deviations from the mean may be in single
    precision: about the pivot no mean is much larger than they are.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for place, call in enumerate(calls):
        alike.setdefault((call.m.device, call.m.dtype, call.m.shape[0]), []).append(place)
    found = {}
    for places in alike.values():
        rows = _sums([calls[place] for place in places])
        start = 0
        for place in places:
            call = calls[place]
            width, images = call.m.shape[1], float(call.m.shape[0])
            vectors = rows[:, start : start + width].copy()
            vectors[3:] *= call.values
            weight = images * call.values
            found[place] = Moments(images, weight, weight * call.values, *vectors)
            start += width
    return found


def _sums(calls: Sequence[_Call]) -> Floats:
    """Pivot, means of m and q, and sums of products of their deviations: (6, channels of all)."""
    import torch

    with torch.no_grad():
        m, q, pivot = (
            torch.cat(parts, dim=-1)
            for parts in zip(*((call.m, call.q, call.pivot) for call in calls), strict=True)
        )
        if m.device.type == "mps":  # which has no double precision
            m, q, pivot = m.cpu(), q.cpu(), pivot.cpu()
        (mean_m, dm), (mean_q, dq) = _centred(m), _centred(q)
        products = [(one * other).sum(dim=0) for one, other in ((dm, dm), (dq, dq), (dm, dq))]
        vectors = [x.double() for x in (pivot, *products)]
        sums: Floats = torch.stack([vectors[0], mean_m, mean_q, *vectors[1:]]).cpu().numpy()
    return sums


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the rows in double precision, and the rows about it in their own."""
    mean = x.mean(dim=0)
    off = (x - mean).mean(dim=0).double()  # what rounding has left
    exact = mean.double() + off
    return exact, x - exact.to(x.dtype)


def from_update(
    before: tuple[Floats, Floats], after: tuple[Floats, Floats], share: float
) -> Batch | None:
    """The batch that moved running statistics from `before` to `after`; None where none can have.

    new = share old + (1 - share) batch, solved for the batch: what is left for models that cannot
    be hooked. How much images differ is not known, so the noise is that of 8 normal values.
    """
    if not 0 <= share < 1:
        return None
    mean, var = ((new - share * old) / (1 - share) for old, new in zip(before, after, strict=True))
    var = np.maximum(var, 0.0)
    return Batch(mean, var, var, 2 * var**2, _ASSUMED_IMAGES, 1, float("nan"))


_ASSUMED_IMAGES: Final = 8.0


def first_not_finite(batches: Mapping[str, Batch]) -> str | None:
    """The first layer that a batch reached with NaN or infinity."""
    return next((n for n, b in batches.items() if not np.isfinite(b.largest)), None)
