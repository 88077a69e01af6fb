"""What a program computes from parameters, buffers and sizes alone, such as a weight_norm's weight.

The numbers are computed in float64 when somebody asks for them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from functools import lru_cache

import torch
from torch.fx import Node

from bncheck.core.limits import MAX_MADE_NUMBERS
from bncheck.graph.program.calls import Arguments, operator_name
from bncheck.graph.program.double import evaluated

#: What makes numbers of nothing but sizes.
_FACTORIES = {"arange", "eye", "full", "linspace", "logspace", "ones", "scalar_tensor", "tri",
              "tril_indices", "triu_indices", "zeros"}  # fmt: skip
_FILLINGS = {"new_zeros": 0, "new_ones": 1, "new_full": None, "zeros_like": 0, "ones_like": 1,
             "full_like": None}  # fmt: skip


class Constants(Mapping[Node, torch.Tensor]):
    """The nodes with fixed numbers, and these. `stored`: by name, those that are not computed."""

    def __init__(self, stored: dict[str, torch.Tensor]) -> None:
        self.stored = stored
        self._nodes: set[Node] = set()
        self._numbers = lru_cache(maxsize=None)(self._evaluate)

    def __contains__(self, node: object) -> bool:
        return node in self._nodes

    def __getitem__(self, node: Node) -> torch.Tensor:
        if node not in self._nodes:
            raise KeyError(node)
        return self._numbers(node)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def add_leaf(self, node: Node, found: object) -> None:
        """A parameter, a buffer, or an attribute of the graph: fixed where it is a tensor."""
        if isinstance(found, torch.Tensor):
            self.stored[node.name] = found
        if node.name in self.stored:
            self._nodes.add(node)

    def add_call(self, node: Node) -> bool:
        """Take in a call whose numbers are fixed, and say whether they are."""
        name, sources = operator_name(node), node.all_input_nodes
        made = _filled(node, name)
        if made is not None:
            self.stored[node.name] = made
        known = bool(sources) or _is_made(node, name)
        if made is not None or (known and self._nodes.issuperset(sources) and _is_pure(node)):
            self._nodes.add(node)
        return node in self._nodes

    def _evaluate(self, node: Node) -> torch.Tensor:
        stored = self.stored.get(node.name)
        return evaluated(node, self._numbers) if stored is None else stored


def _is_pure(node: Node) -> bool:
    target = node.target
    if target is operator.getitem:
        return True
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return False
    return torch.Tag.nondeterministic_seeded not in target.tags and isinstance(
        node.meta.get("val"), (torch.Tensor, tuple, list)
    )


def _filled(node: Node, name: str) -> torch.Tensor | None:
    """The numbers of y.new_full(sizes, number) and the like: they are the same whatever y is."""
    value = node.meta.get("val")
    if name not in _FILLINGS or not isinstance(value, torch.Tensor):
        return None
    number = _FILLINGS[name]
    if number is None:
        number = Arguments(node)("fill_value")
    if not isinstance(number, (int, float)) or not _is_small(value):
        return None
    return torch.full((), number, dtype=value.dtype).expand(value.shape)


def _is_made(node: Node, name: str) -> bool:
    """Whether a call makes numbers of nothing but known sizes."""
    value = node.meta.get("val")
    alone = not node.all_input_nodes and name in _FACTORIES
    return alone and isinstance(value, torch.Tensor) and _is_small(value)


def _is_small(value: torch.Tensor) -> bool:
    """Not so large that a few bytes of a file would fill the memory."""
    sizes = [size for size in value.shape if isinstance(size, int)]
    return len(sizes) == value.dim() and math.prod(sizes) <= MAX_MADE_NUMBERS
