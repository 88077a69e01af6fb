"""Finds the state dicts and modules in what a pickle describes.

People save a bare state dict, or a dict with the weights under one of many names beside an
optimizer, or whole modules, or several of these at once. So every dict that holds tensors and every
module is a subtree of its own, and choosing one is left to `selection`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Final, NoReturn, TypeAlias, TypeGuard

from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_DEPTH
from bncheck.core.words import shortened
from bncheck.reading.checkpoint import NormModule, Subtree, as_eps, as_number
from bncheck.reading.kinds import is_norm_class
from bncheck.reading.module_calls import listed_sequences
from bncheck.reading.nested import unwrapped
from bncheck.reading.nodes import (
    attributes,
    by_name,
    children,
    is_module,
    members,
    registered,
)
from bncheck.reading.pickle_values import MAPPINGS, Global, Node, OpaqueTensor, TensorView, Value
from bncheck.reading.roles import STATISTICS, UNNAMED, split_name
from bncheck.reading.tensors import LazyTensor, LoadedTensor
from bncheck.reading.torch_files import Pickled

#: Where something is: its parent's path and its own key, joined only when somebody needs a name.
Path: TypeAlias = "tuple[Path, str] | None"
_Full: TypeAlias = "Node | TensorView | OpaqueTensor | list[Value] | tuple[Value, ...]"

_REGISTERED: Final = frozenset(
    ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
)
ROLES = ("running_mean", "running_var", "weight", "bias", "num_batches_tracked")


def find_subtrees(pickled: Pickled) -> list[Subtree]:
    """Every state dict and module below the root, outermost first, in the order of the file."""
    found: list[Subtree] = []
    budget = pickled.budget
    seen: set[int] = set()
    held = _Unregistered([], set())
    # Iterators rather than lists of children: a pickle may have a million of them.
    stack: list[Iterator[tuple[Path, Value]]] = [iter([(None, pickled.root)])]
    while stack or held.items:
        if not stack:
            seen |= held.registered
            stack.append(iter(held.taken()))
        if (step := next(stack[-1], None)) is None:
            stack.pop()
            continue
        path, value = step[0], unwrapped(step[1])
        if len(stack) > MAX_DEPTH:
            raise too_deep()
        if not _is_full(value) or id(value) in seen:
            continue
        seen.add(id(value))
        if (tensor := pickled.objects.tensor(value)) is not None:
            if path is None:  # the file holds one bare tensor
                found.append(Subtree("", {"": tensor}))
            continue
        if isinstance(value, (TensorView, OpaqueTensor)):
            continue
        if is_module(value):
            found.append(_module(pickled, path, value, held))
            continue
        tensors = {}
        for name, item in _named(value):
            if (tensor := _tensor_of(pickled, name, item)) is not None:
                tensors[dotted((None, name), budget)] = tensor
                seen.add(id(item))  # or it would be described once more, as a child
        if tensors:
            found.append(Subtree(dotted(path, budget), tensors))
        stack.append(_children(path, value))
    return found


def _named(value: _Full) -> Iterable[tuple[str, Value]]:
    """The entries of a dict; of a list its (name, value) pairs, or its items by their places."""
    if not isinstance(value, (list, tuple)):
        return by_name(value).items()
    pairs = {pair[0]: pair[1] for pair in value if _is_pair(pair)}
    if len(pairs) == len(value):
        return pairs.items()
    return ((f"{UNNAMED}{place}]", item) for place, item in enumerate(value) if _is_full(item))


def _is_pair(value: Value) -> TypeGuard[tuple[str, Value]]:
    return isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], str)


def _tensor_of(pickled: Pickled, name: str, item: Value) -> LazyTensor | None:
    """A tensor of a state dict; the result of an unknown call, too, where a statistic should be."""
    item = unwrapped(item)
    tensor = pickled.objects.tensor(item)
    if tensor is not None or not isinstance(item, Node) or split_name(name)[1] not in STATISTICS:
        return tensor
    if item.is_call_of(MAPPINGS) or item.entries:
        return None
    return LoadedTensor(partial(_refuse_call, item))


def _refuse_call(call: Node) -> NoReturn:
    raise BncheckError(
        f"has a statistic computed by a call ({shortened(str(call.function), 60)})",
        "save it as a plain tensor",
    )


def plain_numbers(pickled: Pickled) -> dict[str, float]:
    """The numbers at the root of a file, and in the `meta` that OpenMMLab keeps them in."""
    root = by_name(pickled.root)
    found = {**by_name(root.get("meta")), **root}
    numbers = {name: as_number(value) for name, value in found.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def _is_full(value: Value) -> TypeGuard[_Full]:
    """Whether something can be in it."""
    if isinstance(value, (TensorView, OpaqueTensor)):
        return True
    if isinstance(value, Node):
        return bool(value.args or value.entries or value.items or value.state is not None)
    return isinstance(value, (list, tuple)) and bool(value)


def too_deep() -> BncheckError:
    """For what is nested like nothing that a person wrote, or contains itself."""
    return BncheckError(
        "nests its content too deeply (limit MAX_DEPTH)",
        "save the weights alone, as a state dict",
    )


def _children(
    path: Path, value: Node | list[Value] | tuple[Value, ...]
) -> Iterator[tuple[Path, Value]]:
    """What may hold further subtrees: entries, items, and the state of plain objects."""
    if isinstance(value, (list, tuple)):
        pairs: Iterable[tuple[str, Value]] = ((str(i), item) for i, item in enumerate(value))
    else:
        pairs = chain(
            children(value), ((str(index), item) for index, item in enumerate(value.items))
        )
        if not value.is_call_of(MAPPINGS):  # whose attributes are not entries
            states = value.state if isinstance(value.state, tuple) else (value.state,)
            yield from ((path, state) for state in states if isinstance(state, Node))
    for key, item in pairs:
        if _is_full(item):
            yield (path, key), item


def dotted(path: Path, budget: Budget) -> str:
    """The name of a tensor or module, counted: shared nodes let a small file describe 2^40."""
    parts: list[str] = []
    while path is not None:
        path, part = path
        parts.append(part)
        budget.letters.take(len(part) + 1)
        if len(parts) > MAX_DEPTH:
            raise too_deep()
    budget.tensors.take(1)
    return ".".join(reversed(parts))


@dataclass(frozen=True, slots=True)
class _Unregistered:
    """What modules hold beside their state dicts, and the ids of the modules that are in these.

    A network in a plain list is run like any other: so is a teacher hidden from the state dict.
    """

    items: list[tuple[Path, Value]]
    registered: set[int]

    def take_in(self, path: Path, node: Value, own: Mapping[str, Value]) -> None:
        """Note a module that is registered, and its other attributes."""
        self.registered.add(id(node))
        for key, value in own.items():
            if key not in _REGISTERED and _is_full(value):
                self.items.append(((path, key), value))

    def taken(self) -> list[tuple[Path, Value]]:
        """The attributes, which are looked at once."""
        items = [*self.items]
        self.items.clear()
        return items


def _module(pickled: Pickled, path: Path, root: Value, held: _Unregistered) -> Subtree:
    """A pickled nn.Module as its state dict, and what each normalisation layer says of itself."""
    tensors: dict[str, LazyTensor] = {}
    modules: dict[str, NormModule] = {}
    budget = pickled.budget
    stack: list[tuple[Path, int, Value]] = [(None, 0, root)]
    while stack:
        name, depth, node = stack.pop()
        budget.modules.take(1)
        if depth > MAX_DEPTH:
            raise too_deep()
        own = attributes(node)
        inner = by_name(own.get("_modules"))
        values = registered(own)
        dropped = members(own.get("_non_persistent_buffers_set"))
        budget.operations.take(len(dropped) + len(values) + len(inner))  # which modules may share
        held.take_in(path if name is None else (path, dotted(name, budget)), node, own)
        transient = {item for item in dropped if isinstance(item, str)}
        roles = {}
        for key, value in values.items():
            tensor = pickled.objects.tensor(value)
            if tensor is not None and key not in transient:
                roles[key] = dotted((name, key), budget)
                tensors[roles[key]] = tensor
        class_name = _class_name(node)
        if "running_mean" in values or (is_norm_class(class_name) and not inner):
            modules[dotted(name, budget)] = norm_module(class_name, own, roles)
        for key, child in reversed(list(inner.items())):
            if isinstance(child, Node):
                stack.append(((name, key), depth + 1, child))
    calls = partial(listed_sequences, root, pickled.objects)
    return Subtree(
        dotted(path, budget),
        tensors,
        modules,
        main=path is None,
        listing=calls if modules else None,
    )


def _class_name(node: Value) -> str:
    function = node.function if isinstance(node, Node) else None
    if isinstance(function, Global) and function.name in ("_reconstructor", "__newobj__"):
        assert isinstance(node, Node)
        function = node.args[0] if node.args else None
    return function.name if isinstance(function, Global) else ""


def norm_module(
    class_name: str, attributes: Mapping[str, Value], tensors: dict[str, str]
) -> NormModule:
    """What a normalisation layer's attributes say; `tensors` maps its own names to full ones."""
    training, tracks = attributes.get("training"), attributes.get("track_running_stats")
    return NormModule(
        class_name,
        {role: tensors[role] for role in ROLES if role in tensors},
        eps=as_eps(attributes.get("eps")),
        momentum=as_number(attributes.get("momentum")),
        momentum_known="momentum" in attributes,
        training=training if isinstance(training, bool) else None,
        tracks_statistics=tracks if isinstance(tracks, bool) else None,
    )
