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

#: Numbers of a kernel that are widened at a time.
_AT_ONCE = 1 << 20


def widened(item: Any) -> Any:
    """A floating tensor or dtype as float64; anything else as it is."""
    if isinstance(item, torch.Tensor) and item.dtype in _NARROW:
        return item.to(torch.float64)
    return torch.float64 if isinstance(item, torch.dtype) and item in _NARROW else item


def call_in_float64(target: Any, args: Any, kwargs: Any) -> Any:
    """What the operator `target` gives for these arguments, in float64."""
    rank = _IN_COLUMNS.get(getattr(target, "overloadpacket", None))
    if rank is not None and args[0].dim() == rank:
        return _convolved(target, *args, **kwargs)
    args, kwargs = pytree.tree_map(widened, (args, kwargs))
    return pytree.tree_map(widened, target(*args, **kwargs))


def _convolved(
    target: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any = None, *rest: Any, **named: Any
) -> torch.Tensor:
    """Sample by sample, and some results of a large kernel at a time: it is not widened whole."""
    samples, bias = torch.split(widened(x), 1), widened(bias)
    grouped = weight.shape[1] != x.shape[1]
    step = max(1, len(weight) if grouped else _AT_ONCE // max(1, weight[:1].numel()))
    parts = []
    for first in range(0, max(1, len(weight)), step):
        rows = slice(first, first + step)
        kernel, shift = widened(weight[rows]), None if bias is None else bias[rows]
        made = [target(sample, kernel, shift, *rest, **named) for sample in samples]
        parts.append(torch.cat(made))
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def is_kernel(node: Node) -> bool:
    """Whether only such convolutions read a node, as their kernel, which they widen themselves."""
    return bool(node.users) and all(
        getattr(user.target, "overloadpacket", None) in _IN_COLUMNS
        and [node is each for each in user.args[:2]] == [False, True]
        and user.all_input_nodes.count(node) == 1
        for user in node.users
    )


def evaluated(node: Node, value_of: Callable[[Node], Any]) -> torch.Tensor:
    """A node on fixed numbers, in float64."""
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), value_of)
    with torch.no_grad():
        result: torch.Tensor = call_in_float64(node.target, args, kwargs)
    return result
