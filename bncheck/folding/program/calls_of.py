"""What the submodules of a model are called with when it is run on an example."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.folding.program.dtypes import dtypes_of_modules, names_of
from bncheck.folding.program.in_module import own
from bncheck.subject.given import copied

HINT = "name a submodule that is called with tensors; named_modules() lists them"
#: The inputs of one call, in the order of forward's parameters; None where they have no order.
Called = tuple[Any, ...] | None


def recorded(
    model: nn.Module, inputs: tuple[Any, ...], names: Iterable[str]
) -> Mapping[str, list[Called]]:
    """The inputs of every call of these submodules, copied before the call may change them."""
    found: dict[str, list[Called]] = {name: [] for name in names}
    with ExitStack() as stack:
        for name, calls in found.items():
            module = model.get_submodule(name)
            handle = module.register_forward_pre_hook(_into(calls), with_kwargs=True)
            stack.callback(handle.remove)
        run(model, inputs)
    return found


def run(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """What the model makes of copies of the inputs. Raises BncheckError."""
    try:
        with usercode.exporting(), torch.no_grad():
            return model(*own(inputs))
    except Exception as error:
        raise BncheckError(
            f"cannot be run on the example ({usercode.described(error)})",
            "check --input against the model's forward",
        ) from None


def submodule(model: nn.Module, name: str) -> nn.Module:
    """The submodule of that name. Raises BncheckError."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        names = ", ".join(child for child, _ in model.named_children())
        raise BncheckError(
            f"--part {name!r} is not a submodule of the model", f"those on top are {names}"
        ) from None


def first_call(
    model: nn.Module, inputs: tuple[Any, ...], name: str
) -> tuple[nn.Module, tuple[Any, ...]]:
    """A copy of a submodule, and what the example calls it with first. Raises BncheckError."""
    submodule(model, name)
    trial = copied(model)
    calls = [call for call in recorded(trial, inputs, [name])[name] if call is not None]
    if not calls:
        raise BncheckError(f"the example does not call --part {name!r} with inputs in order", HINT)
    return trial.get_submodule(name), calls[0]


def _into(calls: list[Called]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(own(_in_order(module, args, kwargs)))

    return hook


def _in_order(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Called:
    if not kwargs:
        return args
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    return None if bound.kwargs else bound.args


def dtypes_from(
    model: nn.Module, inputs: tuple[Any, ...], modules: Sequence[nn.Module]
) -> set[str]:
    """The dtypes of these modules' parameters, and of what is made from their first call on."""
    found, begun = dtypes_of_modules(modules), False

    def begin(_: nn.Module, __: Any) -> None:
        nonlocal begun
        begun = True

    def note(_: nn.Module, __: Any, result: Any) -> None:
        if begun:
            found.update(names_of(torch.utils._pytree.tree_leaves(result)))

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(begin).remove)
        for module in model.modules():
            stack.callback(module.register_forward_hook(note).remove)
        run(model, inputs)
    return found


@contextmanager
def stepped(modules: Iterable[nn.Module], epsilon: float, seed: int) -> Iterator[None]:
    """Every floating result of these modules off by one unit in the last place or two."""
    generator = torch.Generator().manual_seed(seed)

    def moved(item: Any) -> Any:
        if not isinstance(item, torch.Tensor) or not item.is_floating_point():
            return item
        steps = torch.randint(-1, 2, item.shape, generator=generator).to(item)
        return item * (1 + epsilon * steps)

    def hook(_: nn.Module, __: Any, result: Any) -> Any:
        return torch.utils._pytree.tree_map(moved, result)

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(hook).remove)
        yield
