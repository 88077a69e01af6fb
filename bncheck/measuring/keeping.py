"""A model is left as it was, whatever its forward writes into its modules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextlib.contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Attributes of modules, lists and dicts in them, and buffers are put back afterwards.

    Forwards that count their calls, hold a moving average or remember an activation change nothing
    that way. Costs a copy of the buffers.
    """
    from torch import nn

    attributes = [(vars(module), dict(vars(module))) for module in model.modules()]
    bare = vars(nn.Module()).keys() - {"_buffers"}  # the rest of torch's own is not forward's
    inside = [
        _content(item) for _, held in attributes for name, item in held.items() if name not in bare
    ]
    buffers = [(buffer, buffer.detach().clone(), _version(buffer)) for buffer in model.buffers()]
    try:
        yield
    finally:
        for own, held in attributes:
            if own.keys() != held.keys() or any(own[name] is not held[name] for name in held):
                own.clear()
                own.update(held)
        for item, content in filter(None, inside):
            _put_back(item, content)
        for buffer, copy, version in buffers:
            if version is None or _version(buffer) != version:
                _write(buffer, copy)


def _content(item: Any) -> tuple[Any, Any] | None:
    """A list, set or dict (of buffers, too) with what is in it now."""
    kind = next((kind for kind in (list, dict, set) if isinstance(item, kind)), None)
    return None if kind is None else (item, kind(item))


def _put_back(item: Any, content: Any) -> None:
    """Item by item: `update` of a Counter would add. Nothing is compared: it may hold tracers."""
    if isinstance(item, list):
        list.__setitem__(item, slice(None), content)
    elif isinstance(item, set):
        item.clear()
        item |= content
    else:
        item.clear()
        for name, value in content.items():
            item[name] = value


def _version(tensor: Tensor) -> int | None:
    """How often it was written to, where torch counts that."""
    return None if tensor.is_inference() else tensor._version  # noqa: SLF001 - no other name


def _write(buffer: Tensor, numbers: Tensor) -> None:
    import torch

    with torch.no_grad(), torch.inference_mode(buffer.is_inference()):
        buffer.copy_(numbers)
