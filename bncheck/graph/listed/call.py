"""A call that a file lists, as the table of operators is asked about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bncheck.graph.aten.calls import Call
from bncheck.graph.aten.signatures import signatures
from bncheck.graph.dataflow import Shape
from bncheck.graph.operators import UndescribedError
from bncheck.reading.listing import BETWEEN, ListedCall, Ref


class ReadCall(Call):
    """`shapes` and `dtypes` are those of all tensors that are known so far, by name."""

    def __init__(
        self, call: ListedCall, shapes: Mapping[str, Shape], dtypes: Mapping[str, str]
    ) -> None:
        self.name = call.operator
        self._args = call.args
        self._results = tuple(Ref(name) for name in call.outputs)
        self._shapes, self._dtypes = shapes, dtypes
        known = signatures().get(self.name, {})
        self._given = {**dict(zip(known, call.args, strict=False)), **call.named}
        self._defaults = {name: value for name, value in known.items() if value is not ...}

    def __call__(self, name: str, default: Any = None) -> Any:
        """An argument as it was given, or by default."""
        if name in self._given:
            return self._given[name]
        return self._defaults.get(name, default)

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments that were given by their place."""
        return self._args

    @property
    def results(self) -> Sequence[Any]:
        """The tensors that it makes."""
        return self._results

    def is_tensor(self, item: Any) -> bool:
        """Whether it is a reference to one."""
        return isinstance(item, Ref)

    def sizes(self, item: Any) -> Shape:
        """A tensor's, with names for those that are not known."""
        found = self.named_sizes(item)
        if found is None:
            raise UndescribedError
        return found

    def named_sizes(self, item: Any) -> Shape | None:
        """The same, None where nothing is known."""
        return self._shapes.get(item.name) if isinstance(item, Ref) else None

    def dtype(self, item: Any) -> str:
        """A tensor's."""
        return self._dtypes.get(item.name, "") if isinstance(item, Ref) else ""

    def is_fixed(self, item: Any) -> bool:
        """Whether it is a weight."""
        return isinstance(item, Ref) and not item.name.startswith(BETWEEN)

    def numbers(self, item: Any) -> None:
        """Not read here."""
