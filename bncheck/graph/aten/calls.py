"""A call of one of torch's operators, as the tables of operators are asked about it."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from bncheck.graph.dataflow import Dim, Shape
from bncheck.graph.operators import UndescribedError
from bncheck.graph.specs import Spec

#: A call seen as the planner sees it: what it does, and which arguments are its inputs.
Described: TypeAlias = tuple[Spec, tuple[Any, ...]]
#: What an operator is to the planner; None for a call of it that has no description.
Describe: TypeAlias = "Callable[[Call], Described | None]"


class Call(ABC):
    """A front end says what its tensors are; `name` is the operator's, without an overload.

    An argument is a tensor of the front end's own type, a number, None, or a sequence of these.
    """

    name: str

    @abstractmethod
    def __call__(self, name: str, default: Any = None) -> Any:
        """An argument as it was given, or by default."""

    @property
    @abstractmethod
    def args(self) -> tuple[Any, ...]:
        """The arguments that were given by their place."""

    @property
    @abstractmethod
    def results(self) -> Sequence[Any]:
        """What it makes: its only result, or each of several."""

    @abstractmethod
    def is_tensor(self, item: Any) -> bool:
        """Whether an argument is a tensor."""

    @abstractmethod
    def sizes(self, item: Any) -> Sequence[Any]:
        """A tensor's, in the front end's own types; UndescribedError where they are not known."""

    @abstractmethod
    def named_sizes(self, item: Any) -> Shape | None:
        """The same as numbers and names."""

    @abstractmethod
    def dtype(self, item: Any) -> str:
        """A tensor's, by its name in torch; "" where it is not known."""

    @abstractmethod
    def is_fixed(self, item: Any) -> bool:
        """Whether a tensor's numbers are."""

    @abstractmethod
    def numbers(self, item: Any) -> Iterable[Any] | None:
        """Those of a fixed tensor."""

    def repeated(self, item: Any) -> Iterable[Any] | None:
        """Those of a fixed tensor, or of one that is repeated along axes of size 1."""
        return self.numbers(item)

    def shares(self, item: Any) -> bool:
        """Whether a tensor sums to 1 along its last axis, as a softmax does."""
        return False

    def first(self, *names: str) -> Any:
        """The first of these arguments that is given."""
        return next((self(name) for name in names if self(name) is not None), None)

    def rank_of(self, item: Any) -> int:
        """The rank of a tensor, 0 for anything else."""
        return len(self.sizes(item)) if self.is_tensor(item) else 0

    @property
    def source(self) -> Any:
        """The first argument, which nearly always is the data."""
        return self.args[0] if self.args else None

    @property
    def rank(self) -> int:
        """The rank of the source."""
        return self.rank_of(self.source)

    @property
    def shape(self) -> Sequence[Any]:
        """The sizes of the source."""
        if not self.rank:
            raise UndescribedError
        return self.sizes(self.source)

    def last(self, number: int) -> tuple[int, ...]:
        """The last `number` axes of the source."""
        return tuple(range(self.rank - number, self.rank))

    def axis(self, name: str = "dim", axes: int = 0) -> int:
        """An axis of the source, or of a result of that rank."""
        return self.whole(name, 0) % (axes or len(self.shape))

    def number(self, name: str, default: Any = None) -> int | float:
        """An argument that is a number."""
        value = self(name, default)
        if not isinstance(value, (int, float)):
            raise UndescribedError
        return value

    def whole(self, name: str, default: Any = None) -> int:
        """An argument that is a whole number."""
        value = self(name, default)
        if not isinstance(value, int):
            raise UndescribedError
        return value

    def size(self, name: str) -> Dim:
        """An argument that is a size, which may have a name."""
        return self.whole(name)

    def rises(self, item: Any, end: Dim) -> bool:
        """Whether the numbers of a tensor begin with 0, rise, and stay below `end`."""
        found = self.numbers(item)
        if found is None or not isinstance(end, int):
            return False
        numbers = [int(number) for number in found]
        pairs = itertools.pairwise([*numbers, end])
        return numbers[:1] == [0] and all(first < second for first, second in pairs)

    def stride_of(self, item: Any, end: Dim) -> int | None:
        """How far the numbers of a tensor, and `end`, are apart; None where that differs."""
        found = self.numbers(item)
        if found is None or not isinstance(end, int) or not self.rises(item, end):
            return None
        numbers = [*map(int, found), end]
        steps = {second - first for first, second in itertools.pairwise(numbers)}
        return steps.pop() if len(steps) == 1 else None

    def on_source(self, spec: Spec | None) -> Described | None:
        """With the source as its only input."""
        return None if spec is None else (spec, (self.source,))


def named(describe: Describe, names: str) -> dict[str, Describe]:
    """Rows of a table of operators: all of these names have one description."""
    return dict.fromkeys(names.split(), describe)
