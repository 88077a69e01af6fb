"""Finds the state dicts and modules in what a pickle describes.

People save a bare state dict, or a dict with the weights under one of many names beside an
optimizer, or whole modules, or several of these at once. So every dict that holds tensors and every
module is a subtree of its own, and choosing one is left to `selection`.
"""

from __future__ import annotations

from collections.abc import Iterator

from bncheck.errors import BncheckError
from bncheck.limits import MAX_MODULE_DEPTH, MAX_TENSORS
from bncheck.reading.checkpoint import NormModule, Subtree
from bncheck.reading.inert import Global, Node, Value
from bncheck.reading.kinds import is_norm_class
from bncheck.reading.tensors import LazyTensor
from bncheck.reading.torch_files import Pickled
from bncheck.reading.torch_objects import attributes, entries, is_module, named

ROLES = ("running_mean", "running_var", "weight", "bias", "num_batches_tracked")


def find_subtrees(pickled: Pickled) -> list[Subtree]:
    """Every state dict and module below the root, outermost first, in the order of the file."""
    found: list[Subtree] = []
    seen: set[int] = set()
    stack: list[tuple[str, Value]] = [("", pickled.root)]
    while stack:
        path, value = stack.pop()
        if not isinstance(value, (Node, list, tuple)) or id(value) in seen:
            continue
        seen.add(id(value))
        if pickled.objects.tensor(value) is not None:
            if not path:  # the file holds one bare tensor
                found.append(_checked(Subtree("", {"": _tensor(pickled, value)})))
            continue
        if is_module(value):
            found.append(_module(pickled, path, value))
            continue
        tensors = {
            name: tensor
            for name, item in named(value)
            if (tensor := pickled.objects.tensor(item)) is not None
        }
        if tensors:
            found.append(_checked(Subtree(path, tensors)))
        stack.extend(reversed(list(_children(path, value))))
    return found


def _tensor(pickled: Pickled, value: Value) -> LazyTensor:
    tensor = pickled.objects.tensor(value)
    assert tensor is not None
    return tensor


def _children(
    path: str, value: Node | list[Value] | tuple[Value, ...]
) -> Iterator[tuple[str, Value]]:
    """What may hold further subtrees: entries, items, and the attributes of plain objects."""
    if isinstance(value, (list, tuple)):
        pairs = [(str(index), item) for index, item in enumerate(value)]
    else:
        pairs = [(_key(key), item) for key, item in entries(value) or ()]
        pairs += [(str(index), item) for index, item in enumerate(value.items)]
        pairs += list(attributes(value).items())
    for key, item in pairs:
        if isinstance(item, (Node, list, tuple)):
            yield f"{path}.{key}" if path else key, item


def _key(key: Value) -> str:
    return key if isinstance(key, str) else str(key) if isinstance(key, int) else "?"


def _checked(subtree: Subtree) -> Subtree:
    if len(subtree.tensors) > MAX_TENSORS:
        raise BncheckError(
            f"holds more than {MAX_TENSORS:,} tensors (limit MAX_TENSORS)", "split the file"
        )
    return subtree


def _module(pickled: Pickled, path: str, root: Value) -> Subtree:
    """A pickled nn.Module as its state dict, and what each normalisation layer says of itself."""
    tensors: dict[str, LazyTensor] = {}
    modules: dict[str, NormModule] = {}
    stack: list[tuple[str, int, Value]] = [("", 0, root)]
    visits = 0
    while stack:
        name, depth, node = stack.pop()
        visits += 1
        if depth > MAX_MODULE_DEPTH or visits > MAX_TENSORS:
            raise BncheckError(
                "holds modules nested beyond reason (limits MAX_MODULE_DEPTH, MAX_TENSORS)",
                "save its state dict instead",
            )
        own = attributes(node)
        children = [(key, child) for key, child in named(own.get("_modules"))]
        values = dict([*named(own.get("_parameters")), *named(own.get("_buffers"))])
        roles = {}
        for key, value in values.items():
            tensor = pickled.objects.tensor(value)
            if tensor is not None:
                roles[key] = _join(name, key)
                tensors[roles[key]] = tensor
        class_name = _class_name(node)
        if "running_mean" in values or (is_norm_class(class_name) and not children):
            modules[name] = norm_module(class_name, own, roles)
        for key, child in reversed(children):
            if isinstance(child, Node):
                stack.append((_join(name, key), depth + 1, child))
    return _checked(Subtree(path, tensors, modules))


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _class_name(node: Value) -> str:
    function = node.function if isinstance(node, Node) else None
    if isinstance(function, Global) and function.name in ("_reconstructor", "__newobj__"):
        assert isinstance(node, Node)
        function = node.args[0] if node.args else None
    return function.name if isinstance(function, Global) else ""


def norm_module(
    class_name: str, attributes: dict[str, Value], tensors: dict[str, str]
) -> NormModule:
    """What a normalisation layer's attributes say; `tensors` maps its own names to full ones."""
    eps, momentum = attributes.get("eps"), attributes.get("momentum")
    training, tracks = attributes.get("training"), attributes.get("track_running_stats")
    return NormModule(
        class_name,
        {role: tensors[role] for role in ROLES if role in tensors},
        eps=_number(eps),
        momentum=_number(momentum),
        momentum_known="momentum" in attributes,
        training=training if isinstance(training, bool) else None,
        tracks_statistics=tracks if isinstance(tracks, bool) else None,
    )


def _number(value: Value) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and isinstance(value, (int, float)) else None
