"""One call of an exported graph in float64, whatever dtypes it was written for.

Every floating dtype among its arguments is replaced, and a floating result that still is narrower
is widened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

_NARROW = {torch.float16, torch.bfloat16, torch.float32}
#: Convolutions, with the rank of their batches. In float64 torch lays out the columns of all
#: samples at once: for a 3 x 3 kernel that is nine times the batch.
_IN_COLUMNS: dict[Any, int] = {
    torch.ops.aten.conv1d: 3,
    torch.ops.aten.conv2d: 4,
    torch.ops.aten.conv3d: 5,
}


def widened(item: Any) -> Any:
    """A floating tensor or dtype as float64; anything else as it is."""
    if isinstance(item, torch.Tensor) and item.dtype in _NARROW:
        return item.to(torch.float64)
    return torch.float64 if isinstance(item, torch.dtype) and item in _NARROW else item


def call_in_float64(target: Any, args: Any, kwargs: Any) -> Any:
    """What the operator `target` gives for these arguments, in float64."""
    args, kwargs = pytree.tree_map(widened, (args, kwargs))
    rank = _IN_COLUMNS.get(getattr(target, "overloadpacket", None))
    if rank is not None and args[0].dim() == rank:
        return torch.cat([target(sample, *args[1:], **kwargs) for sample in args[0].split(1)])
    return pytree.tree_map(widened, target(*args, **kwargs))


def evaluated(node: Node, value_of: Callable[[Node], Any]) -> torch.Tensor:
    """A node on fixed numbers, in float64."""
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), value_of)
    with torch.no_grad():
        result: torch.Tensor = call_in_float64(node.target, args, kwargs)
    return result
