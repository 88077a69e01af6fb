"""Calls that a file lists as the planner's graph. A weight has the name of its tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_PREDICTING_BYTES
from bncheck.graph import specs
from bncheck.graph.aten.operators import described
from bncheck.graph.dataflow import Floats, Graph, Op, Shape, Value
from bncheck.graph.listed.call import ReadCall
from bncheck.graph.listed.shapes import input_shape, piece_shapes, result_shape
from bncheck.reading.listing import ListedCall, Listing, Ref
from bncheck.reading.roles import split_name
from bncheck.reading.tensors import LazyTensor

#: What shares the numbers of its input: a change in place changes both.
_VIEWS: Final = (
    specs.Reshape, specs.Transpose, specs.Expand, specs.Split, specs.Identity, specs.Opaque,
)  # fmt: skip

#: Views that calls in place change in all.
_MOST_CHANGED: Final = 1_000_000


def read_listing(listing: Listing, tensors: Mapping[str, LazyTensor]) -> Graph:
    """The graph of these calls; `tensors` are the checkpoint's, of which shapes are taken.

    What is not understood is left out, and so is what comes of it.
    """
    return _Reader(listing, tensors).graph()


class _Reader:
    def __init__(self, listing: Listing, tensors: Mapping[str, LazyTensor]) -> None:
        self.listing, self.tensors = listing, tensors
        known = {name: tensor.shape for name, tensor in tensors.items() if tensor.shape is not None}
        self.shapes: dict[str, Shape] = {**listing.sizes, **known}
        self.values: dict[str, Value] = {}
        self.ops: list[Op] = []
        #: What a name stands for once something was changed in place; None: nothing known.
        self.current: dict[str, str | None] = {}
        self.bases: dict[str, str] = {}
        self.views: dict[str, dict[str, None]] = {}
        self.left = _MOST_CHANGED

    def graph(self) -> Graph:
        for number, call in enumerate(self.listing.calls):
            self._call(number, call)
        for name, shape in self.shapes.items():
            dtype = self.listing.dtypes.get(name, "")
            self.values.setdefault(name, Value(name, shape, dtype))
        return Graph(tuple(self.ops), self.values, frozenset())

    def _call(self, number: int, listed: ListedCall) -> None:
        given = replace(
            listed,
            args=self._resolved(listed.args),
            named={name: self._resolved(value) for name, value in listed.named.items()},
        )
        in_place = given.operator.endswith("_") and not given.operator.endswith("__")
        if in_place:
            given = replace(given, operator=given.operator[:-1])
        call = ReadCall(given, self.shapes, self.listing.dtypes)
        self._assume(call)
        try:
            spec, inputs = described(call) or (specs.Opaque(call.name), ())
            names = [self._input(number, slot, item) for slot, item in enumerate(inputs)]
            self._results(call, spec, inputs)
        except (ValueError, TypeError, IndexError, ZeroDivisionError):  # sizes that do not fit
            spec, names = specs.Opaque(call.name), []
        source = listed.args[0] if listed.args else None
        if isinstance(source, Ref):
            self._shared(source.name, listed.outputs, spec, in_place)
        if self._is_constant(spec, inputs := tuple(names), listed.outputs):
            return
        self.ops.append(
            Op(str(number), spec, inputs, listed.outputs, _label(names, call.name), call.name)
        )

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._resolved(item) for item in value)
        if not isinstance(value, Ref):
            return value
        name = self.current.get(value.name, value.name)
        return value if name == value.name else (None if name is None else Ref(name))

    def _assume(self, call: ReadCall) -> None:
        source = call.source
        if isinstance(source, Ref) and source.name not in self.shapes:
            shape = input_shape(call)
            if shape is not None:
                self.shapes[source.name] = shape
        pieces = piece_shapes(call) if len(call.results) > 1 else None
        for result, shape in zip(call.results, pieces or (), strict=False):
            self.shapes.setdefault(result.name, shape)

    def _input(self, number: int, slot: int, item: Any) -> str | None:
        """The name of an input; a number has a value of its own."""
        if isinstance(item, Ref):
            return item.name
        if not isinstance(item, (int, float)) or isinstance(item, bool):
            return None
        name, fixed = f"{number}:{slot}", np.asarray(item, np.float64)
        self.values[name] = Value(name, (), "", lambda: fixed)
        return name

    def _results(self, call: ReadCall, spec: specs.Spec, inputs: Sequence[Any]) -> None:
        if call.results and call.results[0].name not in self.shapes:
            shape = result_shape(call, spec, inputs)
            if shape is not None:
                self.shapes[call.results[0].name] = shape

    def _shared(
        self, source: str, outputs: Sequence[str], spec: specs.Spec, in_place: bool
    ) -> None:
        """Keep count of what is one storage, and of what was changed in it."""
        base = self.bases.get(source, source)
        if not in_place:
            if isinstance(spec, _VIEWS):
                self._view(base, outputs)
            return
        alike = [name for name in self.views.get(base, ()) if name != source]
        self.left -= len(alike)
        if self.left < 0:
            raise BncheckError("changes too many views in place", "export it with torch.export")
        whole = base == source
        self.current.update(dict.fromkeys([base, *alike]))
        self.current[source] = outputs[0] if outputs else None
        if whole and outputs:
            self._view(base, outputs[:1])

    def _view(self, base: str, names: Sequence[str]) -> None:
        self.bases.update(dict.fromkeys(names, base))
        self.views.setdefault(base, {}).update(dict.fromkeys(names))

    def _is_constant(
        self, spec: specs.Spec, inputs: tuple[str | None, ...], outputs: tuple[str, ...]
    ) -> bool:
        """Whether it turns a weight, whose numbers are then taken from the file."""
        tensor = self.tensors.get(inputs[0] or "") if inputs else None
        if tensor is None or not isinstance(spec, specs.Transpose):
            return False
        self.values[outputs[0]] = Value(
            outputs[0], self.shapes.get(outputs[0]), "", _turned(tensor, spec.order)
        )
        return True


def _turned(tensor: LazyTensor, order: tuple[int, ...]) -> Callable[[], Floats]:
    def numbers() -> Floats:
        if tensor.cost > MAX_PREDICTING_BYTES:
            raise ValueError
        return tensor.read().transpose(order).astype(np.float64)

    return numbers


def _label(names: Sequence[str | None], operator: str) -> str:
    """The module whose weights a call takes, or the operator."""
    owners = (split_name(name)[0] for name in names[1:] if name and not name.startswith("%"))
    return next((owner for owner in owners if owner), operator)
