"""What Python callers hand in as a model: a module that can be run and looked into, or not."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeGuard

from bncheck.core.errors import BncheckError
from bncheck.core.words import a_kind
from bncheck.measuring.norms import norms_of
from bncheck.subject.uninitialized import refuse_uninitialized

if TYPE_CHECKING:
    from torch import nn
    from torch.jit import ScriptModule


def check_module(given: object) -> None:
    """Refuse what is not a module with numbers in it.

    Raises BncheckError for a state dict, a class or a program; for a module that has no shapes yet
    (lazy) or no numbers (on the meta device).
    """
    check_kind(given)
    refuse_uninitialized(given)  # type: ignore[arg-type]


def check_runnable(given: object) -> None:
    """Refuse also what can be looked at and not measured.

    Raises BncheckError for TorchScript, which takes no hooks, and a program's module, which has no
    eval mode.
    """
    check_module(given)
    refuse_scripted(given)  # type: ignore[arg-type]
    if has_fixed_mode(given):
        raise BncheckError(
            "is the module of an exported program, which cannot be set to eval mode",
            "give the module that it was exported from; `fold` and `export` take the program",
            "the model",
        )


def copied(model: nn.Module) -> nn.Module:
    """A copy, into which a file's weights are loaded, and on which anything can be tried.

    A weight that a hook computes, as of the old weight_norm, is copied as the number that it is.
    """
    from torch import Tensor

    values = (value for module in model.modules() for value in vars(module).values())
    computed = (value for value in values if isinstance(value, Tensor) and not value.is_leaf)
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})


def check_kind(given: object) -> None:
    """Refuse what is not a torch.nn.Module. Raises BncheckError."""
    from torch import nn

    if isinstance(given, nn.Module):
        return
    from torch.export import ExportedProgram

    hint = "give the module that a state dict was loaded into; inspect takes a file's path, too"
    what = a_kind(given)
    if isinstance(given, type):
        what, hint = f"the class {given.__name__}", "give an instance of it"
    elif isinstance(given, ExportedProgram):
        hint = "save it with torch.export.save and give the path, or give the module it comes from"
    raise BncheckError(f"{what} is not a torch.nn.Module", hint)


def is_scripted(given: object) -> TypeGuard[ScriptModule]:
    """Whether it is TorchScript as a whole."""
    import torch

    return isinstance(given, torch.jit.ScriptModule)


def refuse_scripted(model: nn.Module) -> None:
    """Raise BncheckError for a module that is TorchScript, or has normalisation layers that are."""
    from torch.jit import ScriptModule

    if not any(isinstance(module, ScriptModule) for module in model.modules()):
        return
    norms = [norm.name for norm in norms_of(model) if isinstance(norm.module, ScriptModule)]
    if isinstance(model, ScriptModule) or norms:
        what = "is TorchScript" if isinstance(model, ScriptModule) else f"has {norms[0]} scripted"
        raise BncheckError(
            f"{what}, which can be inspected without data, and neither measured nor folded",
            "give the nn.Module that it was made from",
            "the model",
        )


def has_fixed_mode(model: Any) -> bool:
    """Whether eval() is not supported, as torch.export has it for what a program's module() is."""
    return any("eval" in vars(module) for module in model.modules())
