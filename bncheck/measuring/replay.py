"""The model run with other code between its layers: another activation, padding, pooling or eps.

Code that differs from that of the training leaves every tensor as it was, so nothing in a file
shows it. What the layers see does: with the right exchange it is what their statistics remember.
Calls are exchanged as they are made, by modules or functions; the model stays as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Final, TypeAlias

from bncheck.core.errors import BncheckError
from bncheck.data import Batch, Batches
from bncheck.measuring.collector import Collector
from bncheck.measuring.forward import forward, prepared
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.measurement import Replay
from bncheck.measuring.merging import Merging, by_call
from bncheck.measuring.messages import Parts
from bncheck.measuring.moments import Moments, unpack
from bncheck.measuring.norms import TrackingNorm, in_eval_mode, spare_statistics
from bncheck.measuring.run import Run

#: Given a call's name, arguments and keywords: its result, or NotImplemented to leave it.
Exchange: TypeAlias = Callable[[str, tuple[Any, ...], dict[str, Any]], Any]

_SAMPLES: Final = 128
_ACTIVATIONS: Final = {
    "relu": "ReLU", "leaky_relu": "LeakyReLU", "silu": "SiLU", "gelu": "GELU",
    "hardswish": "Hardswish", "relu6": "ReLU6", "elu": "ELU", "mish": "Mish",
}  # fmt: skip
#: What an activation is exchanged with; LeakyReLU's slope is 0.01 in PyTorch, 0.1 and 0.2 in use.
_OTHERS: Final[tuple[tuple[str, str, dict[str, float]], ...]] = (
    ("relu", "ReLU", {}), ("silu", "SiLU", {}), ("gelu", "GELU", {}),
    ("hardswish", "Hardswish", {}),
    ("leaky_relu", "LeakyReLU", {}), ("leaky_relu", "LeakyReLU(0.1)", {"negative_slope": 0.1}),
    ("leaky_relu", "LeakyReLU(0.2)", {"negative_slope": 0.2}), ("", "nothing", {}),
)  # fmt: skip
_PADDINGS: Final = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate",
                    "circular": "circular"}  # fmt: skip
_CONVOLUTIONS: Final = ("conv1d", "conv2d", "conv3d")
_POOLS: Final = {
    "max_pool1d": "avg_pool1d", "max_pool2d": "avg_pool2d",
    "adaptive_max_pool1d": "adaptive_avg_pool1d", "adaptive_max_pool2d": "adaptive_avg_pool2d",
}  # fmt: skip
_EPS: Final = (1e-5, 1e-3, 1e-6, 1e-2)


#: Given a layer's name in the file and what it sees of a batch: whether the exchange cannot be it.
Refuted: TypeAlias = Callable[[str, Moments], bool]


class _Refuted(BncheckError):  # noqa: N818 - not an error: it ends a forward at a layer
    pass


def replays(subject: Instrumented, data: Batches, run: Run, refuted: Refuted) -> Sequence[Replay]:
    """What the layers see by themselves with each exchange that the model's calls allow.

    One that a layer refutes is run no further than that layer, and left out.
    """
    batches = [
        prepared(subject.model, batch, number, run.device)
        for number, batch in enumerate(data.first(_SAMPLES))
        if batch.size
    ]
    used, as_it_is = _as_it_is(subject, batches[:1])
    if as_it_is is None:
        return ()
    called_once = [n for n in subject.norms if _images(as_it_is, n) == batches[0].size]
    stopping = partial(_stopping, subject, called_once, refuted)

    def work(exchange: tuple[str, Callable[[], AbstractContextManager[Any]]]) -> Parts:
        moments = _run(subject, batches, exchange[1], stopping)
        return {name: seen.pack() for name, seen in (moments or {}).items()}

    exchanges = [*_exchanges(subject, used)]
    dealt = zip(exchanges, run.processes.dealt("other code", exchanges, work), strict=True)
    return [
        Replay(words, subject.in_file({name: unpack(rows) for name, rows in seen.items()}))
        for (words, _), seen in dealt
        if seen
    ]


def _as_it_is(
    subject: Instrumented, batches: Sequence[Batch]
) -> tuple[set[str], dict[str, Any] | None]:
    """The kinds of calls that could be exchanged, and what `_run` gives without an exchange."""
    used: set[str] = set()

    def note(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        used.add(_kind(name, args, kwargs))
        return NotImplemented

    seen = _run(subject, batches, lambda: _exchanging(note))
    return used, seen


def _run(
    subject: Instrumented,
    batches: Sequence[Batch],
    context: Callable[[], Any],
    stopping: Callable[[Collector], AbstractContextManager[object]] = nullcontext,
) -> dict[str, Any] | None:
    """The batch cascade in a context; None where the model cannot be run in it, or not so far."""
    import torch

    collector = Collector(subject.norms, True, None, subject.own)
    merging = Merging()
    try:
        with (
            torch.no_grad(), in_eval_mode(subject.model), spare_statistics(subject.norms),
            collector.attached(), stopping(collector), context(),
        ):  # fmt: skip
            for number, batch in enumerate(batches):
                forward(subject.model, batch, number)
                merging.add(collector.take(number))
    except Exception:  # an exchange may not fit, such as a reflection wider than the image
        return None
    return by_call(merging.moments)[0]


def _images(seen: Mapping[str, Moments], norm: TrackingNorm) -> float:
    return seen[norm.name].images if norm.name in seen else 0.0


@contextlib.contextmanager
def _stopping(
    subject: Instrumented, norms: Sequence[TrackingNorm], refuted: Refuted, collector: Collector
) -> Iterator[None]:
    """A forward ends at the first layer that refutes it; the collector's hooks run first."""

    def hook(norm: TrackingNorm) -> Any:
        name = subject.file_name(norm.name)

        def before(_module: Any, _args: Any) -> None:
            if refuted(name, collector.so_far(norm.name)):
                raise _Refuted("ends here", "")

        return before

    with contextlib.ExitStack() as stack:
        for norm in norms:
            stack.callback(norm.module.register_forward_pre_hook(hook(norm)).remove)
        yield


def _exchanges(
    subject: Instrumented, used: set[str]
) -> Iterator[tuple[str, Callable[[], AbstractContextManager[Any]]]]:
    for name, title in _ACTIVATIONS.items():
        for other, words, options in _OTHERS:
            if name in used and (other != name or options):
                exchange = _activation(name, other, options)
                yield f"{words} in place of {title}", _in(exchange)
    for other, words, options in _OTHERS:
        if other and not used & _ACTIVATIONS.keys():
            place, modules = _bare(subject)
            yield f"{words} {place}", _after(modules, other, options)
    padded = {mode for mode in _PADDINGS if f"padding {mode}" in used}
    for mode in _PADDINGS:
        if padded and padded != {mode}:
            yield f"padding mode {mode}", _in(_padding(_PADDINGS[mode]))
    for one, other in _POOLS.items():
        for was, new in ((one, other), (other, one)):
            if was in used:
                yield f"{new} in place of {was}", _in(_pooling(was, new))
    known = {float(getattr(norm.module, "eps", 0.0)) for norm in subject.norms}
    for eps in _EPS:
        if known != {eps}:
            yield f"eps {eps:g}", lambda eps=eps: _with_eps(subject, eps)  # type: ignore[misc]


def _in(exchange: Exchange) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: _exchanging(exchange)


def _exchanging(exchange: Exchange) -> AbstractContextManager[Any]:
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            name = getattr(func, "__name__", "").strip("_").removesuffix("_with_indices")
            result = exchange(name, args, kwargs)
            if result is NotImplemented:
                return func(*args, **kwargs)
            in_place = getattr(func, "__name__", "").endswith("_") or kwargs.get("inplace")
            return args[0].copy_(result) if in_place else result

    return Mode()


def _kind(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What a call is for an exchange: its name, or how it pads."""
    if name in _CONVOLUTIONS and _zeros_around(name, args, kwargs):
        return "padding zeros"
    if name == "pad":
        mode = kwargs.get("mode", args[2] if len(args) > 2 else "constant")
        return f"padding {'zeros' if mode == 'constant' else mode}"
    return name


def _activation(was: str, other: str, options: dict[str, float]) -> Exchange:
    from torch.nn import functional

    def exchange(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name != was:
            return NotImplemented
        x = args[0] if args else kwargs["input"]
        return getattr(functional, other)(x, **options) if other else x.clone()

    return exchange


def _bare(subject: Instrumented) -> tuple[str, list[Any]]:
    """Where activations may be missing: in the place of nn.Identity, or else behind every norm."""
    from torch import nn

    empty = [module for module in subject.model.modules() if isinstance(module, nn.Identity)]
    if empty:
        return "in place of Identity", empty
    return "behind the normalisation layers", [norm.module for norm in subject.norms]


def _after(
    modules: Sequence[Any], name: str, options: dict[str, float]
) -> Callable[[], AbstractContextManager[Any]]:
    """An activation of what these modules return."""
    from torch.nn import functional

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for module in modules:
                hook = lambda _module, _args, y: getattr(functional, name)(y, **options)  # noqa: E731
                stack.callback(module.register_forward_hook(hook).remove)
            yield

    return context


def _padding(mode: str) -> Exchange:
    """Whatever surrounds a convolution's input surrounds it in another way."""
    from torch.nn import functional

    def exchange(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name == "pad" and len(args) > 1:
            return functional.pad(args[0], args[1], mode=mode)
        around = _zeros_around(name, args, kwargs) if name in _CONVOLUTIONS else None
        if around is None or mode == "constant":
            return NotImplemented
        x = functional.pad(args[0], [size for size in reversed(around) for _ in (0, 1)], mode=mode)
        bare = {**kwargs, "padding": 0} if len(args) < 5 else kwargs
        return getattr(functional, name)(x, *args[1:4], *((0,) if len(args) > 4 else ()), *args[5:],
                                         **bare)  # fmt: skip

    return exchange


def _zeros_around(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[int, ...] | None:
    """How many zeros a convolution itself puts around every axis; None for none at all."""
    given = args[4] if len(args) > 4 else kwargs.get("padding", 0)
    axes = int(name[4])
    if isinstance(given, str):
        return None
    sizes = (given,) * axes if isinstance(given, int) else tuple(given)
    sizes = sizes * axes if len(sizes) == 1 else sizes
    return sizes if any(sizes) else None


def _pooling(was: str, new: str) -> Exchange:
    from torch.nn import functional

    def exchange(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name != was:
            return NotImplemented
        if was.startswith("adaptive"):
            return getattr(functional, new)(args[0], args[1])
        names = ("kernel_size", "stride", "padding")
        options = {**dict(zip(names, args[1:4], strict=False)), **kwargs}
        return getattr(functional, new)(args[0], **{n: options[n] for n in names if n in options})

    return exchange


@contextlib.contextmanager
def _with_eps(subject: Instrumented, eps: float) -> Iterator[None]:
    """Another eps in every layer that has one."""
    held = [(n.module, n.module.eps) for n in subject.norms if hasattr(n.module, "eps")]
    try:
        for module, _ in held:
            module.eps = eps
        yield
    finally:
        for module, was in held:
            module.eps = was
