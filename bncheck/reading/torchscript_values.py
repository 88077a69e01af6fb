"""What a name stands for while TorchScript code is walked through: nothing is executed.

A tensor is a Ref; numbers, texts and None are themselves; tuples are tuples. What is not known
still remembers the statistics and modules that it may be, hold or share memory with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from bncheck.reading.listing import Ref
from bncheck.reading.pickle_values import Global, Node


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """A module of the file, and what its tensors' names start with."""

    node: Node
    prefix: str

    @property
    def kind(self) -> Global | None:
        """Its class."""
        return self.node.function if isinstance(self.node.function, Global) else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Module) and other.node is self.node

    def __hash__(self) -> int:
        return id(self.node)


@dataclass(eq=False, slots=True)
class Object:
    """An object of a class that is no module, which the code makes while it runs."""

    kind: Global | None
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Name:
    """A dotted name: torch.relu, ops.prim.min, __torch__.torch.nn.functional.relu."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a module or an object."""

    owner: Module | Object
    name: str


@dataclass(eq=False, slots=True)
class Items:
    """A list, which code may change; None where it is not known what is in it."""

    values: list[Any] | None


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that is not known, with what it may be or hold."""

    parts: frozenset[Part] = frozenset()


Part: TypeAlias = Ref | Module | Object | Method

UNKNOWN: Final = Unknown()


def parts_of(value: Any, counts: Callable[[Ref], bool]) -> Iterator[Part]:
    """The modules in a value, and the tensors that count."""
    seen: set[int] = set()
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, Unknown):
            yield from value.parts
        elif isinstance(value, (Module, Method)):
            yield value
        elif isinstance(value, Ref):
            if counts(value):
                yield value
        elif isinstance(value, (tuple, Items, Object)) and id(value) not in seen:
            seen.add(id(value))
            stack += items_of(value) or ()
            if isinstance(value, Object):
                yield value
                stack += value.attributes.values()


def items_of(value: Any) -> Sequence[Any] | None:
    """What is in a list or tuple, None where that is not known, or it is none."""
    return value.values if isinstance(value, Items) else value if isinstance(value, tuple) else None


def plain(value: Any) -> Any:
    """As an argument of a listed call: what is not known is a text like a symbol's."""
    items = items_of(value)
    if items is not None:
        return tuple(map(plain, items))
    return "?" if isinstance(value, (Items, Module, Object, Name, Method, Unknown)) else value
