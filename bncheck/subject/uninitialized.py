"""Modules without numbers: lazy ones, whose shapes the first input decides, and the meta device."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

from bncheck.core.errors import BncheckError

if TYPE_CHECKING:
    from torch import nn

_SHOWN: Final = 3


def refuse_uninitialized(model: nn.Module, prefix: str = "") -> None:
    """Raise BncheckError for a module that has seen neither an input nor a state dict."""
    from torch.nn.parameter import is_lazy

    refuse_meta(model, prefix)
    tensors = chain(model.named_parameters(), model.named_buffers())
    lazy = [prefix + name for name, tensor in tensors if is_lazy(tensor)]
    if not lazy:
        return
    more = f" and {len(lazy) - _SHOWN} more" if len(lazy) > _SHOWN else ""
    raise BncheckError(
        f"is not initialized: no shape yet for {', '.join(lazy[:_SHOWN])}{more}",
        "run one batch through the model first, or load a state dict into it",
        f"the model {type(model).__name__}",
    )


def refuse_meta(model: nn.Module, prefix: str = "") -> None:
    """Raise BncheckError for a module with tensors that have a shape and no numbers."""
    from torch.nn.parameter import is_lazy

    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if not is_lazy(tensor) and tensor.is_meta:
            raise BncheckError(
                f"has no numbers: {prefix}{name} is on the meta device",
                "load its weights first, as with load_state_dict(..., assign=True)",
                f"the model {type(model).__name__}",
            )
