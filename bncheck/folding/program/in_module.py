"""A folded state goes into a module of the original architecture, which changes along with it.

A folded state dict in an unfolded model is the trap: 265 of 320 keys are gone, strict=False says
nothing, and the answers are wrong. So a manifest says which model the tensors belong to, down to
every key and shape.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.utils import _pytree as pytree

from bncheck.core.errors import BncheckError
from bncheck.core.words import shortened
from bncheck.folding.difference import relative_error
from bncheck.folding.program.fold import FoldResult
from bncheck.folding.program.holding import (
    OTHER_FORM,
    bare_modules,
    check_held,
    neutral,
    plain_weights,
    removed_modules,
    why_not_added,
    why_not_identity,
    why_not_plain,
)
from bncheck.folding.program.parity import arrays

_PARAMETRISED: Final = "parametrizations.weight."


@dataclass(frozen=True)
class FoldedState:
    """Tensors, and what becomes of the modules that hold them.

    `changes`: `identities` are the modules that become Identity, `bare` those that lose their
    weight and bias, `plain_weights` those whose weight is no longer computed, `added` and `removed`
    keys, and `original` the shapes of the module before.
    """

    changes: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @classmethod
    def of(cls, result: FoldResult, model: nn.Module) -> FoldedState:
        """What a fold makes of the model. Raises NotHeldError where no module can hold it."""
        tensors = {
            name: tensor.detach().contiguous()
            for name, tensor in result.program.state_dict.items()
            if isinstance(tensor, torch.Tensor)
        }
        check_held(result, model)
        return cls._complete(
            model,
            {**tensors, **neutral(result, model)},
            identities=removed_modules(result),
            bare=bare_modules(result),
            plain_weights=plain_weights(result),
        )

    @classmethod
    def joined(cls, parts: Mapping[str, FoldedState], model: nn.Module) -> FoldedState:
        """Those of some submodules as one of the whole model."""
        kept = {
            key: value.detach().contiguous()
            for key, value in model.state_dict().items()
            if not key.startswith(tuple(f"{name}." for name in parts))
        }
        inner = {f"{n}.{key}": v for n, part in parts.items() for key, v in part.tensors.items()}
        names = {
            what: [f"{name}.{each}" for name, part in parts.items() for each in part.changes[what]]
            for what in ("identities", "bare", "plain_weights")
        }
        return cls._complete(model, {**kept, **inner}, **names)

    @classmethod
    def _complete(
        cls, model: nn.Module, tensors: dict[str, torch.Tensor], **names: list[str]
    ) -> FoldedState:
        shapes = _shapes(model)
        added, removed = sorted(set(tensors) - set(shapes)), sorted(set(shapes) - set(tensors))
        return cls({**names, "added": added, "removed": removed, "original": shapes}, tensors)


def applied(model: nn.Module, state: FoldedState) -> nn.Module:
    """A copy of the model that is folded; the model stays as it is."""
    try:
        trial = copy.deepcopy(model)
    except RuntimeError:  # a weight that a hook computes, as of the old weight_norm
        raise BncheckError("computes a weight in a hook", OTHER_FORM) from None
    apply(trial, state.changes, state.tensors)
    return trial


def _shapes(model: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def apply(module: nn.Module, manifest: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
    """Check everything, then replace the norms, add the biases and load strictly."""
    _check_architecture(module, manifest)
    modules = dict(module.named_modules())
    _check_modules(modules, manifest)
    gone = tuple(f"{name}." for name in manifest["identities"])
    own = set(manifest["original"])
    bare = manifest.get("bare", [])
    own -= {f"{name}.{role}" for name in bare for role in ("weight", "bias")}
    plain = manifest.get("plain_weights", [])
    own = {key for key in own if not key.startswith(tuple(f"{n}.{_PARAMETRISED}" for n in plain))}
    expected = {key for key in own if not key.startswith(gone)} | set(manifest["added"])
    if expected != set(state):
        odd = sorted(expected ^ set(state))[:5]
        raise BncheckError(f"the fold does not leave one tensor a parameter ({odd})", OTHER_FORM)
    for name in manifest["identities"]:
        parent, _, child = name.rpartition(".")
        setattr(modules[parent], child, nn.Identity())
    for name in bare:
        _bare(modules[name], modules[name.rpartition(".")[0]])
    for name in plain:
        _take_plain(modules[name], state[f"{name}.weight".lstrip(".")])
    for key in manifest["added"]:
        owner, _, role = key.rpartition(".")
        if role == "bias" or owner not in plain:
            added = nn.Parameter(torch.empty_like(state[key]), requires_grad=False)
            setattr(modules[owner], role, added)
    _separate(module)
    module.load_state_dict(state, strict=True)


def _bare(norm: nn.Module, parent: nn.Module) -> None:
    """Take a norm's weight and bias away.

    TransformerEncoderLayer reads those of its norms by name, and gets ones and zeros.
    """
    reads = isinstance(parent, nn.TransformerEncoderLayer)
    for role in {"weight", "bias"} & norm._parameters.keys():
        old = norm._parameters.pop(role)
        if reads and old is not None:
            neutral = torch.full_like(old, float(role == "weight"), requires_grad=False)
            norm.register_buffer(role, neutral, persistent=False)
        else:
            norm.register_parameter(role, None)


def _separate(module: nn.Module) -> None:
    """Give tensors that share memory some of their own, since a fold may part their numbers."""
    taken = set()
    for tensor in (*module.parameters(), *module.buffers()):
        place = tensor.untyped_storage().data_ptr()
        if place and place in taken:
            tensor.data = tensor.data.clone()
        taken.add(place)


def _take_plain(module: nn.Module, weight: torch.Tensor) -> None:
    """Give a module a weight of its own instead of one that it computes.

    torch's remove_parametrizations would change its class, which all copies of the module share.
    """
    module.__class__ = type(module).__bases__[0]
    del module._modules["parametrizations"]
    module.register_parameter("weight", nn.Parameter(torch.empty_like(weight)))


def _check_modules(modules: dict[str, nn.Module], manifest: dict[str, Any]) -> None:
    """Refuse norms that an identity cannot replace, and numbers that no module can hold."""
    plain = manifest.get("plain_weights", [])
    lacking = [name for name in manifest.get("bare", []) if name not in modules]
    reasons = (
        *(why_not_identity(modules, name) for name in manifest["identities"]),
        *(why_not_plain(modules, name) for name in plain),
        *(f"the norm {name} is not a module" for name in lacking),
        *(why_not_added(modules, key, plain) for key in manifest["added"]),
    )
    for reason in reasons:
        if reason is not None:
            raise BncheckError(reason, OTHER_FORM)


def _check_architecture(module: nn.Module, manifest: dict[str, Any]) -> None:
    mine, theirs = _shapes(module), manifest["original"]
    if mine == theirs:
        return
    lacking, more = set(theirs) - set(mine), set(mine) - set(theirs)
    if lacking == set(manifest["removed"]) and more == set(manifest["added"]):
        raise BncheckError(
            "the model is folded already", "give the model as it is built, before folding"
        )
    names = sorted(lacking | more) or sorted(n for n in mine if mine[n] != theirs[n])
    raise BncheckError(
        f"belongs to another model: {len(names)} parameters differ, such as {', '.join(names[:3])}",
        "give the architecture that was folded",
    )


def compare(
    expected: Callable[..., Any], trial: nn.Module, inputs: tuple[Any, ...], tolerance: float
) -> None:
    """The module with the folded numbers must do what the verified program does."""
    with torch.no_grad():
        first = pytree.tree_leaves(expected(*own(inputs)))
        try:
            second = pytree.tree_leaves(trial(*own(inputs)))
        except Exception as error:  # of the user's code, which may read what has gone
            raise BncheckError(
                f"the model cannot be called without what the fold removes ({type(error).__name__}"
                f": {shortened(str(error), 120)})",
                OTHER_FORM,
            ) from None
    pairs = zip(first, second, strict=True)
    floats = [pair for pair in pairs if is_floating(pair[0]) and is_floating(pair[1])]
    if any(relative_error(*arrays(pair)) > tolerance for pair in floats):
        raise BncheckError(
            "a state dict cannot express this fold: the model computes something else with it",
            OTHER_FORM,
        )


def own(inputs: Any) -> Any:
    """Copies of all tensors, which a call in place may change."""
    return pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, inputs)


def is_floating(item: object) -> bool:
    """Whether it is a tensor of floating numbers."""
    return isinstance(item, torch.Tensor) and item.is_floating_point()
