"""Pickles of other frameworks: nested dicts of arrays rather than one dict of dotted names."""

from __future__ import annotations

from typing import Final

from bncheck.reading.checkpoint import Subtree
from bncheck.reading.pickle_values import Global, Node, Value
from bncheck.reading.roles import split_name

_TUPLE: Final = Global("builtins", "tuple")
_FROZEN_DICT: Final = frozenset(
    Global(module, "FrozenDict") for module in ("flax.core.frozen_dict", "flax.core")
)
#: jax.Array.__reduce__: what rebuilds the NumPy array, its arguments and state.
_JAX_ARRAY: Final = frozenset(
    Global(module, "_reconstruct_array") for module in ("jax._src.array", "jaxlib.xla_extension")
)
_STATISTICS: Final = frozenset(("mean", "var", "average"))


def unwrapped(value: Value) -> Value:
    """What a FrozenDict of Flax, a jax.Array or a tensor of Paddle, (name, array), is made of."""
    if isinstance(value, Node) and value.is_call_of(_FROZEN_DICT) and len(value.args) == 1:
        return value.args[0]
    if isinstance(value, Node) and value.is_call_of(_JAX_ARRAY) and len(value.args) >= 3:
        function, args, state = value.args[:3]
        return Node(function, args, state=state) if isinstance(args, tuple) else value
    if isinstance(value, Node) and value.is_call_of({_TUPLE}) and len(value.args) == 1:
        value = value.args[0]
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        return value[1]
    return value


def as_one_tree(subtrees: list[Subtree]) -> list[Subtree]:
    """One more subtree of all tensors, where nested dicts keep a layer's apart.

    Flax has `batch_stats` beside `params`, and each layer is a dict of its own.
    """
    if any(tree.modules or tree.statistics for tree in subtrees):
        return subtrees
    if not any(_has_moments(tree) for tree in subtrees):
        return subtrees
    tensors = {_full(tree.path, name): t for tree in subtrees for name, t in tree.tensors.items()}
    return [Subtree("", tensors, main=True), *(tree for tree in subtrees if tree.path)]


def _has_moments(tree: Subtree) -> bool:
    return any(split_name(name)[1] in _STATISTICS for name in tree.tensors)


def _full(*parts: str) -> str:
    return ".".join(filter(None, parts))
