"""Objects that a TorchScript archive rebuilds with code of its own.

A class may have a `__setstate__`: the pickle then holds an argument of it and not the attributes,
and whatever is in that argument may be changed before it is kept. Packed parameters of quantised
modules are like that. Nothing below such an object is read; it is refused where a normalisation
layer could be in it, and tensors elsewhere that share a storage with it cannot be read.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Set
from typing import NoReturn

from bncheck.core.errors import BncheckError
from bncheck.reading.kinds import is_norm_class
from bncheck.reading.pickle_values import Global, Node, StorageReference, TensorView, Value
from bncheck.reading.roles import STATISTICS, looks_like_a_statistic
from bncheck.reading.torchscript_code import SETSTATE, Sources


def rebuilt_storages(root: Value, source: Sources) -> Set[str]:
    """The storages that the code of some class gets hold of.

    Raises BncheckError where it gets hold of what looks like a normalisation layer.
    """
    if not source.says(SETSTATE):
        return frozenset()
    found: set[str] = set()
    seen: set[int] = set()
    for value in _walk(root, set()):
        kind = value.function if isinstance(value, Node) else None
        if not isinstance(kind, Global) or not kind.module.startswith("__torch__"):
            continue
        if source.rebuilds(kind):
            for inner in _walk(value, seen):
                _refuse_norm(inner, source)
                found |= _storage(inner)
    return found


def storages_of(value: Value) -> Set[str]:
    """The keys of the storages in something."""
    return {key for inner in _walk(value, set()) for key in _storage(inner)}


def has_other_names(root: Value, storages: Container[str]) -> bool:
    """Whether some of these storages, of statistics, are also held as something else."""
    for value in _walk(root, set()):
        held: Iterable[tuple[Value, Value]] = ()
        if isinstance(value, Node):
            held = (*value.entries, *((None, item) for item in (*value.args, *value.items)))
        elif isinstance(value, (list, tuple)):
            held = ((None, item) for item in value)
        others = (item for key, item in held if key not in STATISTICS)
        if any(key in storages for item in others for key in _storage(item)):
            return True
    return False


def refuse_rebuilt() -> NoReturn:
    """For a tensor whose numbers may be others once the file is loaded."""
    raise BncheckError(
        "rebuilds a tensor of a normalisation layer with code of its own (__setstate__)",
        "save the state dict with torch.save",
    )


def _storage(value: Value) -> Set[str]:
    storage = value.storage if isinstance(value, TensorView) else None
    key = storage.key if isinstance(storage, StorageReference) else None
    return frozenset((key,)) if isinstance(key, str) else frozenset()


def _refuse_norm(value: Value, source: Sources) -> None:
    if not isinstance(value, Node):
        return
    kind = value.function
    if isinstance(kind, Global) and (is_norm_class(kind.name) or source.speaks_of_norms(kind)):
        refuse_rebuilt()
    if any(isinstance(key, str) and looks_like_a_statistic(key) for key, _ in value.entries):
        refuse_rebuilt()


def _walk(root: Value, seen: set[int]) -> Iterator[Value]:
    """Everything that is in a value, each once for each `seen`."""
    stack: list[Value] = [root]
    while stack:
        value = stack.pop()
        if not isinstance(value, (Node, TensorView, list, tuple)) or id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, Node):
            stack += [value.state, *value.args, *value.items]
            stack += [item for _, item in value.entries]
        elif isinstance(value, (list, tuple)):
            stack += value
