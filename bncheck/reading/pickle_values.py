"""What a pickle says, as a graph that nothing was called for.

None, bool, int, float, str, bytes, `Span`, tuple, list, `Global`, `Persistent`, `StorageReference`,
`TensorView`, `OpaqueTensor` and `Node`. It may share and contain itself, so walk it with an
explicit stack.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias, TypeGuard

from bncheck.core.errors import BncheckError

#: Anything in this graph. Consumers narrow it with isinstance.
Value: TypeAlias = object


class Global(NamedTuple):
    """A name that the pickle would have imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Span(NamedTuple):
    """A long byte string, left where it is in the stream."""

    offset: int
    length: int


@dataclass(slots=True, eq=False)
class Persistent:
    """A persistent id that does not name a storage."""

    pid: Value


@dataclass(slots=True, eq=False)
class StorageReference:
    """A storage that a torch file holds: `elements` numbers of the kind that torch calls `kind`.

    `view` is (offset, length), in elements, where only a part is meant: torch before 0.4. A `flaw`
    says why its numbers may be others than those in the file.
    """

    key: str
    kind: str
    elements: int
    location: str
    view: tuple[int, int] | None = None
    flaw: BncheckError | None = None


@dataclass(slots=True, eq=False)
class TensorView:
    """A tensor that a call would have made: a view of a storage, offset and strides in elements.

    `dtype` is torch's name of it, None for the storage's own. A `flaw` says why its numbers are not
    those of the storage.
    """

    storage: Value
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str | None = None
    flaw: BncheckError | None = None


@dataclass(slots=True, eq=False)
class OpaqueTensor:
    """A tensor whose numbers a call would have made in a way that bncheck does not follow."""

    flaw: BncheckError


@dataclass(slots=True, eq=False)
class Node:
    """A dict, a set, or the result of a call that was not made.

    `entries` are key-value pairs set on it, `items` what was appended, `state` what BUILD passed.
    `by_name` is for the reader's use: its entries that have names, once somebody looked them up.
    """

    function: Value
    args: tuple[Value, ...] = ()
    # Empty tuples until there is something to hold: a pickle can ask for millions of empty dicts.
    entries: Sequence[tuple[Value, Value]] = ()
    items: Sequence[Value] = ()
    state: Value = None
    by_name: dict[str, Value] | None = None

    def is_call_of(self, functions: Container[Value]) -> bool:
        """Whether it calls one of these globals. Anything else is neither hashed nor compared:
        it may be a tuple that contains itself a million times over.
        """
        return isinstance(self.function, Global) and self.function in functions


DICT: Final = Global("builtins", "dict")
SET: Final = Global("builtins", "set")
COUNTER: Final = Global("collections", "Counter")
DEFAULTDICT: Final = Global("collections", "defaultdict")
MAPPINGS: Final = frozenset((DICT, Global("collections", "OrderedDict"), COUNTER, DEFAULTDICT))


def is_dict(value: Value) -> TypeGuard[Node]:
    """Whether a value is one of Python's own dicts."""
    return isinstance(value, Node) and value.is_call_of(MAPPINGS)
