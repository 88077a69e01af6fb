"""What a layer's own train() takes from a batch, and whether that is what its input says.

A layer may normalise over less than its input (masks, lengths), over parts of it (ghost batches,
groups), or not as its name says. Its own update tells: from starts s and s' it leaves

    running = (1 - m) s + m batch,    so m = 1 - (running' - running) / (s' - s)

whatever its momentum, and from s = 0 the batch's own statistics are running / m. Where they agree
with the moments of the input, these are measured. Where they do not, they still are what the layer
normalises with if eval mode with them in the buffers gives what train() gave; then they are taken
from its update, batch by batch. Otherwise nothing is known of the layer, and nothing is concluded.

All of it happens in a copy of the layer: the model's own buffers, flags and counters are not there
to be changed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from bncheck.measuring.norms import TrackingNorm, channels_second, norms_of
from bncheck.reading.kinds import NormKind

if TYPE_CHECKING:
    from torch import Tensor

#: Why nothing is concluded from a layer.
OTHER_INPUT: Final = "normalises over something else than its input"
#: Two sets of moments of one batch agree up to so many standard deviations (RMS over channels).
_AGREE: Final = 0.02
#: Outputs of train() and of eval mode with the batch's statistics agree up to this share.
_SAME_OUTPUT: Final = 0.02
#: Images that are looked at one by one.
_IMAGES: Final = 32
#: Images differ for a layer by at most this many times what their whole inputs do.
_MOST_SPREAD: Final = 100.0
#: A layer that moves its statistics by less does not move them.
_STILL: Final = 1e-6


@dataclass(frozen=True)
class OwnUpdate:
    """A copy of a layer from whose update the batch's statistics are taken, with its momentum.

    `spread` has two factors, (C,) each: how much more images differ in mean and in mean square for
    the layer than by their whole inputs.
    """

    norm: TrackingNorm
    momentum: float
    spread: tuple[Tensor, Tensor] | None = None

    def statistics(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Mean and variance, (C,) each in float64, of what train() normalises over."""
        mean, var, _ = _updated(self.norm, 0.0, args, kwargs)
        return mean / self.momentum, var / self.momentum

    def values(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
        """How many values a channel the batch has: one of them set to 1 raises the mean by 1/n.

        Every channel looks at another sample, at the first place, which masks mostly leave in.
        """
        import torch

        x = input_of(args, kwargs)
        if x.ndim < 2 or x.shape[1] != self.norm.channels or not x.numel():
            return None
        marked = torch.zeros_like(x)
        flat = marked.view(x.shape[0], x.shape[1], -1)
        channels = torch.arange(x.shape[1], device=x.device)
        flat[channels % x.shape[0], channels, 0] = 1.0
        largest = float(self.statistics(*_with_input(marked, args, kwargs))[0].max())
        return 1 / largest if largest > 0 else None


@dataclass(frozen=True)
class Seen:
    """The moments of a layer's input: mean and biased variance, (C,), of so many values."""

    mean: Tensor
    var: Tensor
    values: int


def own_update(
    norm: TrackingNorm, args: tuple[Any, ...], kwargs: dict[str, Any], seen: Seen
) -> OwnUpdate | str | None:
    """How the layer is measured, given one input and its moments.

    None: by the moments of its input; OwnUpdate: by that; else why it is not measured.
    """
    try:
        spare = _copy(norm)
        mean_0, var_0, output = _updated(spare, 0.0, args, kwargs)
        mean_1, var_1, _ = _updated(spare, 1.0, args, kwargs)
        kept = (mean_1 - mean_0 + var_1 - var_0) / 2
        momentum = 1 - float(kept.mean())
        if momentum < _STILL:  # a frozen layer
            return None
        if float(kept.std(correction=0)) > _AGREE:
            return OTHER_INPUT
        own = mean_0 / momentum, var_0 / momentum
        several = sum(_is_tensor(x) for x in (*args, *kwargs.values())) > 1
        if not several and _agree(norm, own, seen):
            return None
        if norm.kind is not NormKind.INSTANCE and _same(spare, own, output, args, kwargs):
            found = OwnUpdate(spare, momentum)
            return replace(found, spread=_spread(found, args, kwargs))
    except Exception:  # whatever a user's layer does in train()
        return None if norm.kind in (NormKind.SYNC, NormKind.FROZEN) else OTHER_INPUT
    return None if _agree(norm, own, seen) else OTHER_INPUT


def _spread(
    own: OwnUpdate, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor] | None:
    """The images one by one, by the layer's update and by their whole inputs; None if it cannot."""
    import torch

    x = input_of(args, kwargs)
    images = min(x.shape[0], _IMAGES)
    try:
        found = [
            own.statistics(_one(args, i, x.shape[0]), _one(kwargs, i, x.shape[0]))
            for i in range(images)
        ]
    except Exception:  # a mask that is not among its arguments does not fit one image
        return None
    mean, var = (torch.stack(part) for part in zip(*found, strict=True))
    pivot = mean.mean(dim=0)
    norm = own.norm
    wide = channels_second(norm.name, norm.channels, x[:images], norm.last).double()
    whole = wide - pivot[:, None]
    ours = mean - pivot, var + (mean - pivot).square()
    theirs = whole.mean(dim=2), whole.square().mean(dim=2)
    m, q = (_ratio(a.std(dim=0), b.std(dim=0)) for a, b in zip(ours, theirs, strict=True))
    return m, q


def _ratio(ours: Tensor, theirs: Tensor) -> Tensor:
    """1 where it would magnify the rounding of what does not vary."""
    import torch

    found = ours / theirs
    return torch.where(found < _MOST_SPREAD, found, 1.0)


def _one(given: Any, image: int, images: int) -> Any:
    """The arguments of one image alone."""
    if isinstance(given, dict):
        return {name: _one(value, image, images) for name, value in given.items()}
    if isinstance(given, tuple):
        return tuple(_one(value, image, images) for value in given)
    if _is_tensor(given) and given.ndim and given.shape[0] == images:
        return given[image : image + 1]
    return given


def is_plain(norm: TrackingNorm) -> bool:
    """Whether it is one of PyTorch's own layers, of which everything is known."""
    module = norm.module
    known = type(module).__module__.startswith("torch.nn.modules.")
    return known and not module._forward_pre_hooks and "forward" not in vars(module)  # noqa: SLF001


def _copy(norm: TrackingNorm) -> TrackingNorm:
    module = copy.deepcopy(norm.module)
    return next(
        replace(found, name=norm.name, last=norm.last)
        for found in norms_of(module)
        if found.module is module
    )


def _updated(
    norm: TrackingNorm, start: float, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor, Any]:
    """Running mean and variance after one train() call from `start` in every channel; output."""
    for name in (norm.mean_name, norm.var_name):
        getattr(norm.module, name).data.fill_(start)
    counter = getattr(norm.module, "num_batches_tracked", None)
    if counter is not None and _is_tensor(counter):
        counter.data.zero_()
    norm.module.train()
    with _aside(args):
        output = norm.module.forward(*_spare(args), **_spare(kwargs))
    return norm.mean.double().clone(), norm.var.double().clone(), output


def _same(
    norm: TrackingNorm,
    statistics: tuple[Tensor, Tensor],
    output: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> bool:
    """Whether eval mode with these statistics does what train() did."""
    norm.mean.copy_(statistics[0])
    norm.var.copy_(statistics[1])
    norm.module.eval()
    with _aside(args):
        again = norm.module.forward(*_spare(args), **_spare(kwargs))
    if not (_is_tensor(output) and _is_tensor(again)):
        return False
    size = float(output.double().square().mean())
    return float((output - again).double().square().mean()) <= _SAME_OUTPUT**2 * size


def _agree(norm: TrackingNorm, own: tuple[Tensor, Tensor], seen: Seen) -> bool:
    """Whether mean and variance, biased or not, agree in the layer's own coordinates."""
    eps = float(getattr(norm.module, "eps", 1e-5)) + 1e-12
    sigma = (seen.var.double() + eps).sqrt()
    d = (own[0] - seen.mean.double()) / sigma

    def apart(var: Tensor) -> float:
        r = (var + eps).clamp_min(0).sqrt() / sigma - 1
        return float((d.square() + r.square()).mean().sqrt())

    return min(apart(own[1]), apart(own[1] * (1 - 1 / seen.values))) <= _AGREE


@contextmanager
def _aside(args: tuple[Any, ...]) -> Iterator[None]:
    """Without gradients, and with the random state put back."""
    import torch

    devices = [x.device for x in args if _is_tensor(x) and x.device.type == "cuda"][:1]
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        yield


def _spare(given: Any) -> Any:
    """Tensors copied: some layers work in place."""
    if isinstance(given, dict):
        return {name: _spare(value) for name, value in given.items()}
    if isinstance(given, tuple):
        return tuple(_spare(value) for value in given)
    return given.clone() if _is_tensor(given) else given


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a layer normalises: its first argument."""
    return args[0] if args else next(iter(kwargs.values()))


def _with_input(
    x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments with another input."""
    if args:
        return (x, *args[1:]), kwargs
    return args, {**kwargs, next(iter(kwargs)): x}
